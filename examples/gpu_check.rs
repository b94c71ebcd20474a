//! What can only be seen on a GPU, for `make gpu-check`: the quickstart's numbers there beside the CPU's, and milliseconds of training steps in
//! f32 and bf16 beside PyTorch's, where a Python with PyTorch is at hand.
//!
//! `gpu_check PROGRAM [DEVICE]`: PROGRAM is an oodkit that was built with CUDA; DEVICE is `cuda` unless given (`cpu` tries the check itself).
//! It ends with 1 where numbers differ.

#[path = "common/learning.rs"]
mod learning;

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, ExitCode},
    time::Instant,
};

use candle_core::{DType, Device, Tensor};
use oodkit::{Error, Result, nn::Precision, rng, run::device::Wanted};
use rand::Rng as _;
use serde_json::Value;

/// Backbone, images a step, rows and columns.
const STEPS: [(&str, usize, usize); 2] = [("wrn40_2", 128, 32), ("resnet50", 32, 224)];
/// Steps that are not timed; [`TIMED`] follow that are.
const WARM: usize = 5;
/// See [`WARM`].
const TIMED: usize = 20;
/// How far an AUROC may be from the CPU's. Ours: networks that learned from the same images in other rounding differ
/// by less on the quickstart's sets.
const APART: f64 = 0.03;

/// A step of PyTorch's, for its times: arguments are the network, the images, the side, the type and the device.
const PYTORCH: &str = "
import sys, time, torch, torch.nn.functional as F
name, batch, side, kind, device = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
if name == 'wrn40_2':
    sys.path.insert(0, 'tests/golden')
    from torch_networks import WideResNet
    net = WideResNet(40, 2, 3, 10, 0.3)
else:
    import torchvision
    net = torchvision.models.resnet50(num_classes=10)
net = net.to(device).train()
images = torch.rand(batch, 3, side, side, device=device)
labels = torch.arange(batch, device=device) % 10
optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
def step():
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device.split(':')[0], torch.bfloat16, enabled=kind == 'bf16'):
        out = net(images)
        loss = F.cross_entropy(out[0] if isinstance(out, tuple) else out, labels)
    loss.backward()
    optimizer.step()
    return loss.item()
times = []
for index in range(25):
    started = time.perf_counter(); step(); times.append(time.perf_counter() - started)
print(sorted(times[5:])[10] * 1e3)
";

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [program, rest @ ..] = arguments.as_slice() else {
        return Err(Error::input("which program? gpu_check PROGRAM [DEVICE]"));
    };
    let wanted = rest.first().map_or("cuda", String::as_str);
    let device = wanted.parse::<Wanted>()?.open(|reason| println!("{reason}"))?;
    let alike = quickstart(program, wanted)?;
    println!("\n| step, ms | images | type | oodkit | PyTorch |\n| :-- | --: | :-- | --: | --: |");
    for (name, batch, side) in STEPS {
        for (kind, precision) in [("f32", Precision::F32), ("bf16", Precision::Bf16)] {
            if device.is_cpu() && precision == Precision::Bf16 {
                continue;
            }
            let ours = steps(name, [batch, side], precision, &device)?;
            let theirs = pytorch(name, [batch, side], kind, wanted);
            println!("| {name} | {batch} of {side}×{side} | {kind} | {ours:.1} | {theirs} |");
        }
    }
    Ok(if alike { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the quickstart on the CPU and on the device; whether no share differs by more than [`APART`].
fn quickstart(program: &str, device: &str) -> Result<bool> {
    let folder = std::env::temp_dir().join(format!("oodkit-gpu-check-{}", std::process::id()));
    let run = |device: &str| -> Result<BTreeMap<String, f64>> {
        let runs = folder.join(device.replace(':', ""));
        let started = Instant::now();
        let output = Command::new(program)
            .args(["run", "quickstart", "--device", device, "--runs"])
            .arg(&runs)
            .output()
            .map_err(|error| Error::input(format!("cannot start {program}: {error}")))?;
        if !output.status.success() {
            return Err(Error::Failed(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        println!("quickstart on {device}: {:.0} s", started.elapsed().as_secs_f64());
        measures(&runs)
    };
    let (cpu, there) = (run("cpu")?, run(device)?);
    // Nothing is lost if it stays.
    let _ = std::fs::remove_dir_all(&folder);
    println!("\n| measure | cpu | {device} | difference |\n| :-- | --: | --: | --: |");
    let mut alike = !cpu.is_empty() && cpu.len() == there.len();
    for (name, value) in &cpu {
        let other = there.get(name).copied().unwrap_or(f64::NAN);
        let apart = (other - value).abs();
        alike &= apart <= APART;
        println!("| {name} | {value:.4} | {other:.4} | {:+.4} |", other - value);
    }
    println!("\n{}", if alike { "alike" } else { "NOT alike" });
    Ok(alike)
}

/// The AUROC of each method and set of the first seed, by name.
fn measures(runs: &Path) -> Result<BTreeMap<String, f64>> {
    let path = runs.join("experiments/quickstart/results.json");
    let text = std::fs::read_to_string(&path).map_err(|error| Error::Failed(format!("{}: {error}", path.display())))?;
    let results: Value = serde_json::from_str(&text).map_err(|error| Error::Failed(error.to_string()))?;
    let mut found = BTreeMap::new();
    for cell in results["cells"].as_array().into_iter().flatten() {
        for (task, of) in cell["seeds"][0]["tasks"].as_object().into_iter().flatten() {
            for (method, scored) in of["methods"].as_object().into_iter().flatten() {
                for (set, measured) in scored["sets"].as_object().into_iter().flatten() {
                    if let Some(auroc) = measured["measures"]["auroc"].as_f64() {
                        found.insert(
                            format!("{} {task} {method} {set}: AUROC", cell["name"].as_str().unwrap_or("")),
                            auroc,
                        );
                    }
                }
            }
        }
    }
    Ok(found)
}

/// The median milliseconds of a training step.
fn steps(name: &str, [batch, side]: [usize; 2], precision: Precision, device: &Device) -> Result<f64> {
    let mut stream = rng::stream(0, "gpu check", name);
    let values: Vec<f32> = (0..batch * 3 * side * side).map(|_| stream.random_range(-1.0..1.0)).collect();
    let images = Tensor::from_vec(values, (batch, 3, side, side), device)?;
    let mut learn = learning::step(name, &images, precision)?;
    let mut times = Vec::with_capacity(TIMED);
    for step in 0..WARM + TIMED {
        let started = Instant::now();
        let loss = learn(step as u64)?;
        // Read, so that the device is waited for.
        let value: f32 = loss.to_dtype(DType::F32)?.to_scalar()?;
        device.synchronize()?;
        if !value.is_finite() {
            return Err(Error::Failed(format!("{name}: the loss is {value} at step {step}")));
        }
        if step >= WARM {
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[TIMED / 2])
}

/// PyTorch's, or why there is none.
fn pytorch(name: &str, [batch, side]: [usize; 2], kind: &str, device: &str) -> String {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let [batch, side] = [batch, side].map(|number| number.to_string());
    let output = Command::new(python).args(["-c", PYTORCH, name, &batch, &side, kind, device]).output();
    let told = output.ok().filter(|output| output.status.success());
    let milliseconds = told.and_then(|output| String::from_utf8_lossy(&output.stdout).trim().parse::<f64>().ok());
    milliseconds.map_or_else(|| "could not run".to_owned(), |milliseconds| format!("{milliseconds:.1}"))
}
