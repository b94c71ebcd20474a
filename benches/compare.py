"""Training steps of oodkit and PyTorch, interleaved in one run, and the quickstart's time and memory.

`make bench` calls this through benches/run. Both tools are kept alive and take steps in turn, so that whatever else
the machine does falls on both; the table gives medians, their ratio and each process's peak memory.
"""
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
THREADS = len(os.sched_getaffinity(0))
# Rounds: enough for a stable median in about two minutes on two cores.
CASES = {"lenet": ("LeNet train step, batch 128, 1x28x28", 60), "wrn40_2": ("WRN-40-2 train step, batch 64, 3x32x32", 7)}


class Worker:
    def __init__(self, *command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def step(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        self.process.stdin.close()
        self.process.wait()
        return peak / 1024


def processor():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.machine())


def main():
    with tempfile.TemporaryDirectory() as runs:
        started = time.perf_counter()
        child = subprocess.Popen([ROOT / "target/release/oodkit", "run", "quickstart", "--runs", runs], cwd=ROOT,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
    if status:
        sys.exit("the quickstart failed: run `make quickstart` to see why")
    print(f"quickstart, nothing cached: {seconds:.1f} s, peak memory {usage.ru_maxrss / 1024:.0f} MiB\n")

    import torch

    print(f"{processor()}, {THREADS} threads, PyTorch {torch.__version__}, {platform.system()} {platform.machine()}\n")
    print("| work | oodkit ms | PyTorch ms | ratio | oodkit peak MiB | PyTorch peak MiB |")
    print("|---|---|---|---|---|---|")
    for case, (title, rounds) in CASES.items():
        ours = Worker(str(ROOT / "target/release/examples/step"), case)
        theirs = Worker(sys.executable, str(ROOT / "benches/torch_step.py"), case, str(THREADS))
        for worker in (ours, theirs):  # the first steps allocate and choose kernels
            worker.step(), worker.step()
        times = [(ours.step(), theirs.step()) for _ in range(rounds)]
        a, b = (statistics.median(column) for column in zip(*times))
        ratio = statistics.median(x / y for x, y in times)
        print(f"| {title} | {a:.1f} | {b:.1f} | {ratio:.2f} | {ours.close():.0f} | {theirs.close():.0f} |", flush=True)


main()
