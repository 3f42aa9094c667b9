"""The command line of `scripts/bench`."""

import argparse
import datetime
import json
import os
import platform
import sys
from pathlib import Path

from benchmarks import environments, machine, plot, profile, report, rounds, systems, workloads

EPILOG = """
Systems: {systems}. Those that are installed take part; --install-peers [NAME ...] makes an environment for each under
.cache/. `scripts/bench profile W1` writes flame graphs of the client, the agent and an executor.
"""


def main():
    try:
        run(parse(sys.argv[1:]))
    except (environments.CannotInstall, profile.CannotProfile) as error:
        sys.exit(f"scripts/bench: {error}")
    except KeyboardInterrupt:
        sys.exit("\nscripts/bench: interrupted")


def parse(arguments):
    listed = "\n".join(f"  {name:<9} {workloads.purpose(name)}" for name in workloads.WORKLOADS)
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        usage="scripts/bench [WORKLOAD ...] [option ...]\n       scripts/bench profile WORKLOAD",
        description="Measure this product beside its peers, in one run.\n\nworkloads:\n" + listed,
        epilog=EPILOG.format(systems=", ".join(systems.SYSTEMS)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="WORKLOAD", help="all, unless some are named")
    parser.add_argument("--only", default="", metavar="W1,W3", help="the same, with commas")
    parser.add_argument("--peers", metavar="distex,dask", help="these beside this product; an empty text: none")
    parser.add_argument("--repeat", "--rounds", type=positive(int), default=3, metavar="N", help="rounds (default 3)")
    parser.add_argument("--scale", type=positive(float), default=1.0, metavar="F", help="0.01: a quick look")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure of every round")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="write bar charts as SVG")
    parser.add_argument("--install-peers", nargs="*", metavar="NAME", help="make their environments, and do no more")
    options = parser.parse_args(arguments)
    options.is_profile = options.words[:1] == ["profile"]
    names = options.words[options.is_profile :] + [word for word in options.only.split(",") if word]
    options.workloads = [known_workload(parser, name) for name in names] or list(workloads.WORKLOADS)
    if options.is_profile and len(names) != 1:
        parser.exit(2, "scripts/bench: profile needs one workload, for example: scripts/bench profile W1\n")
    options.systems = [systems.OURS, *chosen_peers(parser, options.peers)]
    for name in options.install_peers or ():
        known_system(parser, name)
    return options


def positive(kind):
    def parse_positive(text):
        value = kind(text)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    parse_positive.__name__ = "number"
    return parse_positive


def known_workload(parser, name):
    for known in workloads.WORKLOADS:
        if name.lower() == known.lower():
            return known
    if name.lower() in workloads.ALIASES:
        return workloads.ALIASES[name.lower()]
    parser.exit(2, f"scripts/bench: there is no workload {name!r}; there are {', '.join(workloads.WORKLOADS)}\n")


def known_system(parser, name):
    if name not in systems.SYSTEMS:
        parser.exit(2, f"scripts/bench: there is no system {name!r}; there are {', '.join(systems.SYSTEMS)}\n")
    return name


def chosen_peers(parser, wanted):
    """Those that are named, or those that are installed."""
    peers = [name for name in systems.SYSTEMS if name != systems.OURS]
    if wanted is None:
        return [name for name in peers if environments.is_installed(name)]
    named = [known_system(parser, name) for name in wanted.split(",") if name not in ("", systems.OURS)]
    for name in named:
        if not environments.is_installed(name):
            parser.exit(1, f"scripts/bench: {name} is not installed; run: scripts/bench --install-peers {name}\n")
    return named


def run(options):
    if options.install_peers is not None:
        environments.install(options.install_peers or systems.SYSTEMS)
        return
    if options.is_profile:
        profile.record(options.workloads[0], options.scale)
        return
    quiet, results, has_failed = machine.Quiet(), {}, False
    for complaint in quiet.complaints():
        print(f"Not to be trusted: {complaint}.", file=sys.stderr)
    head = about(options)
    print(f"{head['machine']}; {head['date']}; medians of {options.repeat} rounds [and the range]")
    for workload in options.workloads:
        results[workload] = rounds.measure(workload, options.systems, options.repeat, options.scale, quiet, tell)
        tell("")
        print("\n".join(report.table(workload, results[workload])), flush=True)
        has_failed = has_failed or any(one.has_failed for one in results[workload])
    complaints = quiet.complaints()
    print()
    for complaint in complaints:
        print(f"Not to be trusted: {complaint}.", file=sys.stderr)
    if options.json:
        data = head | {"disturbed": complaints, "workloads": report.as_data(results)}
        options.json.write_text(json.dumps(data, indent=1) + "\n")
    if options.plot:
        for path in plot.write(options.plot, results):
            print(path)
    sys.exit(1 if has_failed else 0)


def about(options):
    """Where and how this was measured."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {
        "machine": f"{cpu()}, {os.cpu_count()} cores, {memory_gib:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["scripts/bench", *sys.argv[1:]]),
        "scale": options.scale,
        "repeat": options.repeat,
    }


def cpu():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def tell(what):
    """What is going on, on a terminal: a line that the next one replaces."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{what}")
        sys.stderr.flush()


if __name__ == "__main__":
    main()
