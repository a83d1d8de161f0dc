"""The answer of `plan` as text for people."""

from typing import Any

from simclr_jax.plan.chips import HERE

NUM_PARTS = 12  # of the traffic, the largest; what is left is one line more
PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def gib(nbytes: int | float) -> str:
    """Returns a size of memory in GiB, the unit of HBM, or in MiB if it is small."""
    if abs(nbytes) < 2**30 / 10:
        return f"{nbytes / 2**20:.1f} MiB"
    return f"{nbytes / 2**30:.2f} GiB"


def describe(answer: dict[str, Any]) -> str:
    """Returns the answer of `plan` as lines of text."""
    chip, images = answer["chip"], answer["images"]
    slices = f"{answer['slices']} slices of " if answer["slices"] > 1 else ""
    mesh = " x ".join(f"{axis} {size}" for axis, size in answer["mesh"].items())
    place = f"on {slices}{answer['topology']}"
    devices = f"{_several(answer['devices'], 'device')} ({mesh})"
    if answer["topology"] != HERE:
        about = [
            _row("slice", f"{_several(answer['chips'], 'chip')}, {devices}"),
            _row(
                "chip",
                f"{_amount(chip['peak_bf16_flops'])}FLOP/s in bf16, "
                f"{_amount(chip['hbm_bandwidth'])}B/s, {chip['hbm_gib']} GiB of HBM, "
                f"by {chip['source']}",
            ),
        ]
    else:
        place = "on this machine"
        about = [_row("devices", f"{answer['devices']} x {chip['name']} ({mesh})")]
    lines = [
        f"{answer['config']} {place} {answer['verdict']}.",
        "",
        *about,
        _row(answer["examples"], f"{images['count']:,} of {images['name']}: {images['how']}"),
        _row("parameters", f"{answer['parameters']:,}"),
        _row("batch", f"{answer['batch_size']}, {answer['batch_per_device']:g} a device"),
        _row(
            "settings",
            f"preset {answer['preset']}, remat {answer['remat']}, "
            f"chunks {answer['grad_cache_chunks']}",
        ),
    ]
    if answer["overrides"]:
        changed = (f"{key}={value}" for key, value in answer["overrides"].items())
        lines.append(_row("overrides", ", ".join(changed)))
    if answer["assumed"]:
        lines.append(_row("assumed", answer["assumed"]))
    lines += [_row("tried", tried) for tried in answer["tried"]]
    refused = "compiler" in answer
    if refused:
        lines.append(_row("compiler", answer["compiler"]))
    else:
        lines += [*_memory(answer), *_step(answer), *_traffic(answer)]
    if "estimate" in answer:
        lines += _time(answer["estimate"], answer["examples"])
    versions = ", ".join(f"{name} {version}" for name, version in answer["versions"].items())
    done = "Refused after" if refused else "Compiled in"
    lines += ["", f"{done} {answer['compile_seconds']:.0f} s by {versions}."]
    if answer["fits"] and answer["flags"]:
        lines.append(f"The first settings that fit: {' '.join(answer['flags'])}")
    return "\n".join(lines if answer["fits"] else [*lines, *_cures(answer)])


def _memory(answer: dict[str, Any]) -> list[str]:
    total, usable = gib(answer["needed_hbm_bytes"]), gib(answer["usable_hbm_bytes"])
    memory, limit = answer["chip"]["memory"], answer["chip"]["limit"]
    return [
        "",
        f"{memory} of a device",
        _row("arguments", f"{gib(answer['arguments_bytes'])}, the state and the batch"),
        _row("temporaries", gib(answer["temporaries_bytes"])),
        _row("for metrics", f"{gib(answer['line_bytes'])}, the parameters before a step again"),
        _row("next batch", f"{gib(answer['next_batch_bytes'])}, which travels during the step"),
        *([_row("program", gib(answer["code_bytes"]))] if answer["code_bytes"] else []),
        _row("total", f"{total} of {usable} that {limit}"),
    ]


def _step(answer: dict[str, Any]) -> list[str]:
    counted = answer["counted"]
    lines = [
        "",
        "A step on a device",
        _row("arithmetic", f"{_amount(answer['flops'])}FLOP, from {counted['flops']}"),
    ]
    if answer["recomputed_flops"]:
        again = _amount(answer["recomputed_flops"])
        lines.append(_row("", f"{again}FLOP of them for the second time, to save memory"))
    lines += [
        _row(
            f"{answer['chip']['memory']} traffic",
            f"{_amount(answer['hbm_bytes'])}B, {counted['hbm_bytes']}",
        ),
    ]
    if answer["bytes_accessed"] is not None:
        accessed = f"{_amount(answer['bytes_accessed'])}B by {counted['bytes_accessed']}"
        lines.append(_row("", f"({accessed})"))
    for kind, row in answer["collectives"].items():
        beside = _beside(answer["overlapped"].get(kind))
        lines.append(_row(kind, f"{row['count']}, {_amount(row['bytes'])}B of results; {beside}"))
    if answer["unknown_loops"]:
        lines.append(_row("", f"{answer['unknown_loops']} loops of unknown length count once"))
    return lines


def _beside(row: dict[str, int] | None) -> str:
    """Returns the work that overlaps with the transfers of a kind."""
    if row is None:
        return "all else waits"
    return (
        f"{row['count']} with {_amount(row['bytes'])}B beside {_amount(row['flops'])}FLOP and "
        f"{_amount(row['hbm_bytes'])}B of HBM traffic"
    )


def _traffic(answer: dict[str, Any]) -> list[str]:
    """Returns where the HBM traffic is: of each part of the network, in each pass."""
    parts = answer["traffic"]
    memory = answer["chip"]["memory"]
    lines = ["", f"{memory} traffic by part; a fusion counts where its last operation does"]
    for part in parts[:NUM_PARTS]:
        passed = "" if part["pass"] == "-" else f", {part['pass']}"
        name, share = f"{part['part']}{passed}", part["hbm_bytes"] / answer["hbm_bytes"]
        lines.append(_row(f"{_amount(part['hbm_bytes'])}B", f"{share:6.1%}  {name}"))
    if rest := sum(part["hbm_bytes"] for part in parts[NUM_PARTS:]):
        others = f"{rest / answer['hbm_bytes']:6.1%}  {len(parts) - NUM_PARTS} other parts"
        lines.append(_row(f"{_amount(rest)}B", others))
    return lines


def _time(estimate: dict[str, Any], examples: str) -> list[str]:
    recipe = (
        f"{_duration(estimate['hours_per_epoch'])} an epoch, {_duration(estimate['hours'])} for "
        f"{estimate['epochs']:g} epochs of {estimate['steps'] / estimate['epochs']:,.0f} steps"
    )
    cost = f"{estimate['chip_hours']:,.4g} chip-hours"
    if "usd" in estimate:
        cost += f", {estimate['usd']:,.2f} USD at {estimate['usd_per_chip_hour']:g} a chip-hour"
    return [
        "",
        f"Time: {estimate['basis']}",
        _row(
            "step",
            f"{estimate['step_seconds'] * 1e3:.4g} ms, bound by {estimate['bound_by']}; model FLOP "
            f"utilisation {estimate['mfu']:.1%}",
        ),
        _row("rate", f"{estimate['pairs_per_second']:,.0f} pairs of views a second"),
        _row("recipe", recipe),
        _row("cost", cost),
        "",
        f"{examples.capitalize()}, at that step; chips of a host and PCIe 3.0 x16 are recalled, "
        "not off a data sheet",
        _row(
            "decoding",
            f"{estimate['images_per_host_second']:,.0f} {examples} a second on each of "
            f"{estimate['hosts']} host(s)",
        ),
        _row(
            "host to devices",
            f"{_amount(estimate['host_to_device_bytes'])}B a step; "
            f"{_amount(estimate['host_bytes_per_second'])}B/s from a host, "
            f"{_amount(estimate['chip_bytes_per_second'])}B/s of "
            f"{_amount(estimate['chip_link_bytes_per_second'])}B/s to a chip",
        ),
    ]


def _cures(answer: dict[str, Any]) -> list[str]:
    state = gib(answer["state_bytes_per_device"])
    effects = {
        "parallel.preset": f"splits the state, {state} now",
        "encoder.remat": "computes activations again",
        "method.grad_cache_chunks": "the batch in parts, each with its own BatchNorm statistics",
    }
    lines = ["What would bring it in, the cheapest in time first (--fit tries them in this order):"]
    for key, values in answer["cures"].items():
        lines.append(_row(f"--config.{key}", f"{' or '.join(map(str, values))}: {effects[key]}"))
    larger = "" if answer["topology"] == HERE else "a larger slice, or "
    now = f"{int(answer['batch_per_device'])} now: {larger}a smaller batch"
    return [*lines, _row("batch per device", now)]


def _row(name: str, text: str) -> str:
    return f"  {name:<18}{text}" if len(name) < 18 else f"  {name}={text}"


def _amount(x: int | float) -> str:
    """Returns a number with the prefix of its unit, such as "3.14 T"."""
    for scale, prefix in PREFIXES:
        if abs(x) >= scale:
            return f"{x / scale:.4g} {prefix}"
    return f"{x:.4g} "


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _duration(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    if hours >= 1:
        return f"{hours:.1f} hours"
    return f"{hours * 60:.1f} minutes" if hours >= 1 / 60 else f"{hours * 3600:.2g} seconds"
