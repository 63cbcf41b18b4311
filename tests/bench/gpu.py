#!/usr/bin/env python3
"""Products, attention and rows on a GPU beside PyTorch, in one run and one table.

    gpu.py [GROUP...] [--only TEXT] [--tune SECONDS] [--quick] ...       groups: large products attention rows (all)

Needs kilnd in $KILN_BIN, the kiln package, ml_dtypes and torch. gpu_bench.py says how both sides are timed; docs/performance/ has results.
With --tune, where bench_ranking was built, the model's first choice among the schedules timed is put beside the best of them, and
where NVRTC is installed the schedules that were timed by both compilers beside each other.
A goal that is missed is written down and is no failure; an answer that differs, or a case that does not run, is one.
"""
import argparse
import sys

import gpu_attention
import gpu_bench
import gpu_compilers
import gpu_products
import gpu_ranking
import gpu_rows

GROUPS = {"large": gpu_products.large, "products": gpu_products.shapes, "attention": gpu_attention.cases, "rows": gpu_rows.cases}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("groups", nargs="*", metavar="GROUP", choices=[*GROUPS, []], help=", ".join(GROUPS))
    gpu_bench.options(p)
    args = gpu_bench.prepared(p.parse_args())
    print(gpu_bench.machine())
    print(gpu_bench.HEAD)
    wrong, groups = [], []
    for name in args.groups or GROUPS:
        results, bad = gpu_bench.run(GROUPS[name](gpu_bench.small_or(args)), args)
        wrong += bad
        groups.append((name, results))
    print()
    for name, results in groups:
        gpu_bench.summary(name, results)
    products = [r for name, results in groups if name in ("large", "products") for r in results if r.kernels]
    gpu_ranking.table([c for r in products if (c := gpu_ranking.choice(r.case, r.kernels))])
    gpu_compilers.table([pair for name, results in groups for r in results if r.kernels for pair in gpu_compilers.pairs(r.case, r.kernels)])
    if wrong:
        sys.exit(f"wrong or not run: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
