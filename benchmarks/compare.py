"""What changed between two reports."""

from __future__ import annotations

from benchmarks.results import Measurement, Report, Spread


def changes(before: Report, after: Report) -> list[str]:
    """A line for each measurement whose quartiles lie apart, and for those that only one report has.

    Ratios are compared where both have the same framework beside them: they bear other machines and busy ones. Where
    there is none, seconds are.
    """
    earlier = {measurement.key: measurement for measurement in before.measurements}
    later = {measurement.key: measurement for measurement in after.measurements}
    lines = [line for key in later if key in earlier and (line := _change(earlier[key], later[key]))]
    lines += [f"only in the first: {_name(earlier[key])}" for key in earlier if key not in later]
    lines += [f"only in the second: {_name(later[key])}" for key in later if key not in earlier]
    return lines


def _change(old: Measurement, new: Measurement) -> str:
    """Empty where the spreads overlap."""
    first, second = old.series[0], new.series[0]
    a, b = first.ratio, second.ratio
    if a is None or b is None:
        a, b = _inverse(first.ours), _inverse(second.ours)  # as with ratios, more is better
    if a.low <= b.high and b.low <= a.high:
        return ""
    times = b.median / a.median
    verdict = f"{times:.2f} times as good" if times > 1 else f"{1 / times:.2f} times as bad"
    shown = f"{a.median:.3g} [{a.low:.3g}, {a.high:.3g}] -> {b.median:.3g} [{b.low:.3g}, {b.high:.3g}]"
    return f"{_name(new)}: {verdict}, {shown}"


def _inverse(spread: Spread) -> Spread:
    return Spread(1 / spread.high, 1 / spread.median, 1 / spread.low)


def _name(measurement: Measurement) -> str:
    beside = f", beside {measurement.framework}" if measurement.framework else ""
    return f"{measurement.family} {measurement.case}, {measurement.mode}{beside}"
