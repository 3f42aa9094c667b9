"""Runs workloads by name, several rounds of each, and prints medians with their ranges."""

import argparse
import importlib
import json
import os
import pkgutil
import platform
import statistics

import workloads


def load():
    """Name -> module of every workload in this folder, by the alphabet."""
    names = sorted(module.name for module in pkgutil.iter_modules(workloads.__path__) if module.name != "__main__")
    return {name: importlib.import_module(f"workloads.{name}") for name in names}


def parse_arguments(modules):
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure one workload, several times.")
    choices = parser.add_subparsers(dest="workload", required=True, metavar="WORKLOAD")
    for name, module in modules.items():
        purpose = module.__doc__.splitlines()[0]
        choice = choices.add_parser(name, help=purpose, description=module.__doc__)
        choice.add_argument("--rounds", type=int, default=3, help="how often (default %(default)s)")
        choice.add_argument("--json", action="store_true", help="every figure of every round, as JSON")
        if hasattr(module, "add_arguments"):
            module.add_arguments(choice)
    return parser.parse_args()


def measure(module, options):
    """{(what, unit): [value of each round]}, in the order in which the workload yields them."""
    figures = {}
    for _ in range(options.rounds):
        for what, value, unit in module.run(options):
            figures.setdefault((what, unit), []).append(value)
    return figures


def show(figures):
    width = max(len(what) for what, _ in figures)
    for (what, unit), values in figures.items():
        middle = f"{statistics.median(values):>14,.6g} {unit}"
        spread = f"   ({min(values):,.6g} to {max(values):,.6g})" if min(values) != max(values) else ""
        print(f"  {what:<{width}} {middle}{spread}")


def main():
    modules = load()
    options = parse_arguments(modules)
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"
    figures = measure(modules[options.workload], options)
    if options.json:
        rows = [{"what": what, "unit": unit, "values": values} for (what, unit), values in figures.items()]
        print(json.dumps({"workload": options.workload, "machine": machine, "figures": rows}, indent=1))
        return
    print(f"{options.workload}: median of {options.rounds} rounds (and the range); {machine}")
    show(figures)


if __name__ == "__main__":
    main()
