"""Linux audit, decoded: records, the calls they are joined to, and the forms that logs are kept in."""
