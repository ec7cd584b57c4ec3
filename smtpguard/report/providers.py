"""Puts names and providers to where connections went, once a command has looked them up. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from smtpguard.report.host_report import DestinationFigures, HostReport, ProviderFigures


class PlaceName(Protocol):
    """What is known of an address: enrich/confirmed_names.ConfirmedName."""

    @property
    def name(self) -> str:
        """A host name that stands for it."""
        ...

    @property
    def provider(self) -> str | None:
        """The domain in it that somebody registered."""
        ...


def name_places(places: Sequence[Mapping[str, Any]], names: Mapping[str, PlaceName]) -> list[dict[str, Any]]:
    """Destinations of `why`, with the names that are confirmed."""
    return [
        {**place, "name": found.name, "provider": found.provider}
        if (found := names.get(place["address"])) is not None
        else dict(place)
        for place in places
    ]


def name_report(report: HostReport, names: Mapping[str, PlaceName]) -> HostReport:
    """A report with the names that are confirmed, and the sums of each provider; the busiest first."""
    destinations = tuple(_name(place, names.get(place.address)) for place in report.destinations)
    sums: dict[str, tuple[set[str], int, int]] = {}
    for place in destinations:
        if place.provider is not None:
            addresses, connects, refused = sums.get(place.provider, (set(), 0, 0))
            sums[place.provider] = ({*addresses, place.address}, connects + place.connects, refused + place.refused)
    providers = [
        ProviderFigures(provider=provider, addresses=len(addresses), connects=connects, refused=refused)
        for provider, (addresses, connects, refused) in sums.items()
    ]
    providers.sort(key=lambda figures: (-figures.connects, figures.provider))
    return replace(report, destinations=destinations, providers=tuple(providers))


def _name(place: DestinationFigures, found: PlaceName | None) -> DestinationFigures:
    return place if found is None else replace(place, name=found.name, provider=found.provider)
