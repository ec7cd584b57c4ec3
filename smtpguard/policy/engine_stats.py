"""What an engine holds and what it left out, for `status`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """What the engine holds and what it left out; shown by `status`.

    Attributes:
        subjects: Subjects known.
        times, keys: Attempts, and addresses and networks, in windows that are large; the others' are bounded by the
            number of subjects.
        dropped: Of these, how many were dropped because the bound was met.
        evicted: Subjects that were forgotten because their pool was full.
        no_uid: Connects without a uid, or on a port that is not guarded: counted for nobody.
        blocks: Blocks and throttles held, the report-only ones too.
        untold: Verdicts about containers that were too many to be told.
    """

    subjects: int
    times: int
    keys: int
    dropped: int
    evicted: int
    no_uid: int
    blocks: int
    untold: int = 0
