#!/usr/bin/env python3
"""Checks a demo's JSON line against the floors the project promises.

    python3 .ci/floors.py post   REPORT.json      simulated posts: nodes' own unseen samples
    python3 .ci/floors.py people REPORT.json...   recorded people: means over the draws, all of them
    python3 .ci/floors.py skewed REPORT.json...   recorded people who each see half the classes
    python3 .ci/floors.py images REPORT.json...   photographs of ten classes, with skewed shares
"""
import json
import sys


def mean(values):
    return sum(values) / len(values)


def main() -> int:
    kind, files = sys.argv[1], sys.argv[2:]
    reports = [json.loads(open(f).read().splitlines()[-1]) for f in files]
    accuracy = [r["accuracy"] for r in reports]
    failures = []

    def floor(what, value, least):
        held = value >= least - 1e-9
        print(f"{'ok  ' if held else 'MISS'} {what}: {value:+.4f}, floor {least:+.4f}")
        if not held:
            failures.append(what)

    for report in reports:
        for key in ("nodes", "rounds", "seconds", "per_node", "bytes", "releases"):
            if key not in report:
                failures.append(f"key {key}")
        for key in ("model_down", "delta_up", "data_stayed"):
            if not report["bytes"][key] > 0:
                failures.append(f"bytes.{key}")
        releases = [(r["version"], r["digest"]) for r in report["releases"]]
        if len(set(releases)) != report["rounds"] + 1 or len(report["per_node"]) != report["nodes"]:
            failures.append("a release for each round and one before, a row for each node")
    if kind == "post":
        for a in accuracy:
            floor("final above base", a["final"] - a["base"], 0.05)
            floor("final above central", a["final"] - a["central"], -0.03)
        for report in reports:
            floor("seconds left of 90", 90 - report["seconds"], 0)
    elif kind == "images":
        # A few hundred small photographs and some rounds: it works, it is no benchmark.
        for a, report in zip(accuracy, reports):
            floor("final on the test set", a["unseen_final"], 0.12)
            floor("seconds left of 300", 300 - report["seconds"], 0)
            shares = [n["samples"] for n in report["per_node"]]
            floor("largest share above the smallest", max(shares) / min(shares), 1.3)
    else:
        final = mean([a["unseen_final"] for a in accuracy])
        local = mean([a["local_only"] for a in accuracy])
        if kind == "people":
            gains = [a["unseen_final"] - a["unseen_base"] for a in accuracy]
            floor("mean gain over base", mean(gains), 0.02)
            floor("worst draw's gain", min(gains), -0.01)
            floor("final", final, 0.91)
            floor("final above local only", final - local, 0.04)
            floor("final above central", final - mean([a["central"] for a in accuracy]), -0.02)
        else:
            floor("final", final, 0.90)
            floor("final above local only", final - local, 0.15)
        for report in reports:
            floor("seconds left of 120", 120 - report["seconds"], 0)
    if failures:
        print(f"missed: {', '.join(failures)}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
