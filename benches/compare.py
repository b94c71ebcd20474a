"""Steps of oodkit and of PyTorch, interleaved in one run: times, their ratio, memory, and how far from the machine's limits.

`make bench` calls this through benches/run; `benches/run wrn40_2 lenet --threads 1` runs some cases. Both tools are kept
alive and take steps in turn, so that whatever else the machine does falls on both; the one that waits is stopped, because its
threads would go on spinning on cores that the other needs.
"""
import argparse
import json
import os
import pathlib
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The table's rows, in order; examples/step.rs and torch_step.py say what each does.
CASES = {
    "lenet": "LeNet train step, b128 1x28x28",
    "wrn40_2": "WRN-40-2 train step, b64 3x32x32",
    "wrn40_2_eval": "WRN-40-2 evaluation, b128 3x32x32",
    "wrn28_10_eval": "WRN-28-10 evaluation, b8 3x32x32",
    "vgg19": "VGG19 (batch norm) train step, b64 3x32x32",
    "resnet50_stages": "ResNet-50 stages 1-3 forward and backward, b4 3x256x256",
    "efficientnet_eval": "EfficientNet-Lite0 evaluation, b16 3x224x224",
    "convnext_tiny": "ConvNeXt-T evaluation, b8 3x224x224",
    "regnety_16gf": "RegNetY-16GF evaluation, b4 3x224x224",
    "swin_tiny": "Swin-T evaluation, b8 3x224x224",
    "vit_s16": "ViT-S/16 evaluation, b8 3x224x224",
    "dinov2_s14": "DINOv2 S/14 evaluation, b1 3x448x448",
    "unet": "diffusion U-Net train step, b64 1x28x28",
    "unet_eval": "diffusion U-Net evaluation, b64 1x28x28",
    "unet_block32": "group norm, SiLU, 3x3 convolution: forward and backward, b64 32x32x32",
    "unet_block64": "the same, b64 64x16x16",
    "unet_block128": "the same, b64 128x8x8",
    "attention49": "attention over 49 positions: forward and backward, b64 64x7x7",
    "attention256": "attention over 256 positions: forward and backward, b64 64x16x16",
    "tem64": "TEM, width 64: forward and backward, b32 64x32x32",
    "ptfem64": "PTFEM, width 64: forward and backward, b32 128x32x32",
    "ptfem64_8": "the same, scale 8 alone",
    "stl64": "all of STL, width 64: forward and backward, b32 64x32x32",
    "sc64": "self-calibrated convolution: forward and backward, b32 64x32x32",
    "tem256": "TEM, width 256: forward and backward, b32 256x32x32",
    "ptfem256": "PTFEM, width 256: forward and backward, b32 512x32x32",
    "ptfem256_8": "the same, scale 8 alone",
    "stl256": "all of STL, width 256: forward and backward, b32 256x32x32",
    "sc256": "self-calibrated convolution: forward and backward, b32 256x32x32",
    "fusion64": "fusion network on a frozen EfficientNet-Lite0, width 64: train step, b32 3x256x256",
    "rd": "reverse distillation of a frozen EfficientNet-Lite0: train step, b16 3x256x256",
    "efficient_ad": "EfficientAD-S: train step, b4 3x256x256",
    "patch_svdd": "Patch SVDD: train step, b8 3x256x256",
}


class Worker:
    def __init__(self, command, options):
        self.cpu = options.cpu
        environment = os.environ | {name: str(options.threads) for name in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS")}
        if options.cpu:
            environment["OMP_WAIT_POLICY"] = "passive"  # waiting is not work
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, **pipes, text=True, env=environment)

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{' '.join(map(str, self.process.args))} ended early")
        return json.loads(line)

    def step(self):
        """Milliseconds."""
        self.process.send_signal(signal.SIGCONT)
        before = self.cpu_milliseconds() if self.cpu else 0.0
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.answer()
        milliseconds = self.cpu_milliseconds() - before if self.cpu else answer
        self.process.send_signal(signal.SIGSTOP)
        return milliseconds

    def cpu_milliseconds(self):
        """Of all threads so far."""
        threads = pathlib.Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e6

    def close(self):
        """Peak memory in MiB."""
        peak = high_water(self.process.pid)
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.close()
        self.process.wait()
        return peak


def high_water(pid):
    """The most memory that a process has held, in MiB; 0 if it has just ended."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


def fastest(work, clock, rounds=9):
    """Seconds of the least disturbed round."""
    times = []
    for _ in range(rounds):
        started = clock()
        work()
        times.append(clock() - started)
    return min(times)


def limits(clock):
    """FLOP/s of PyTorch's product of 2048x2048 matrices, bytes/s of copying 256 MiB (read and written)."""
    a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
    source = torch.rand(64 << 20)
    target = torch.empty_like(source)
    flops = 2 * 2048**3 / fastest(lambda: torch.mm(a, b), clock)
    return flops, 2 * 4 * len(source) / fastest(lambda: target.copy_(source), clock)


def quickstart():
    with tempfile.TemporaryDirectory() as runs:
        started = time.perf_counter()
        child = subprocess.Popen([ROOT / "target/release/oodkit", "run", "quickstart", "--runs", runs], cwd=ROOT,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        peak = 0.0
        while child.poll() is None:
            # Not the kernel's ru_maxrss, which begins with the size of the process that started the child: this one.
            peak = max(peak, high_water(child.pid))
            time.sleep(0.02)
        seconds = time.perf_counter() - started
    if child.returncode:
        sys.exit("the quickstart failed: run `make quickstart` to see why")
    return f"quickstart, nothing cached: {seconds:.1f} s, peak memory {peak:.0f} MiB"


def processor():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.machine())


def compare(case, options, flops, bandwidth):
    """A row of the table."""
    ours = Worker([ROOT / "target/release/examples/step", case], options)
    theirs = Worker([sys.executable, ROOT / "benches/torch_step.py", case, str(options.threads)], options)
    floor = 1e3 * sum(max(work / flops, moved / bandwidth) for work, moved in theirs.answer())
    for _ in range(2):  # the first steps allocate and choose kernels
        together = ours.step() + theirs.step()
    rounds = options.rounds or min(max(round(options.seconds * 1e3 / together), 5), 200)
    times = [(ours.step(), theirs.step()) for _ in range(rounds)]
    a, b = (statistics.median(column) for column in zip(*times))
    ratio = statistics.median(x / y for x, y in times)
    cells = [CASES[case], f"{a:.1f}", f"{b:.1f}", f"{ratio:.2f}", f"{ours.close():.0f}", f"{theirs.close():.0f}",
             f"{floor:.1f}", f"{a / floor:.1f}"]
    return "| " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(prog="benches/run", description="oodkit's steps beside PyTorch's")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"all unless given: {', '.join(CASES)}")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each tool")
    parser.add_argument("--seconds", type=float, default=20.0, help="about so long a case; at least five rounds")
    parser.add_argument("--rounds", type=int, help="so many rounds a case instead")
    parser.add_argument("--cpu", action="store_true", help="CPU time of all threads instead of time: for a busy machine")
    options = parser.parse_args()
    for case in options.cases:
        if case not in CASES:
            parser.error(f"no case {case!r}: choose from {', '.join(CASES)}")
    torch.set_num_threads(options.threads)
    flops, bandwidth = limits(time.process_time if options.cpu else time.perf_counter)
    print(f"{processor()}, {options.threads} threads, PyTorch {torch.__version__}, {platform.system()} {platform.machine()};"
          f" measured peak {flops / 1e9:.0f} GFLOP/s and {bandwidth / 1e9:.1f} GB/s\n")
    if options.cpu:
        print("CPU time of all threads, not time; the limits are one core's.\n")
    print("| work | oodkit ms | PyTorch ms | ratio | oodkit peak MiB | PyTorch peak MiB | floor ms | oodkit / floor |")
    print("|---|---|---|---|---|---|---|---|")
    for case in options.cases or CASES:
        print(compare(case, options, flops, bandwidth), flush=True)
    if not options.cases:
        print(f"\n{quickstart()}")


main()
