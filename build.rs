//! Records the commit the program is built from, for results and `--version`; with the feature `cuda`, compiles our kernels.

use std::process::Command;

fn main() {
    #[cfg(feature = "cuda")]
    compile_kernels();
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = match git(&["rev-parse", "--short=12", "HEAD"]) {
        Some(commit) => {
            let changed =
                git(&["status", "--porcelain", "--untracked-files=no", "--", "src", "Cargo.toml", "Cargo.lock"]);
            if changed.is_some_and(|files| files.is_empty()) { commit } else { format!("{commit}-dirty") }
        }
        None => "unknown".to_owned(),
    };
    println!("cargo::rustc-env=OODKIT_COMMIT={commit}");
    for path in ["src", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    // Absent outside git, where naming it would make cargo run this every time.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| std::path::Path::new(log).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
}

/// Each `.cu` file to PTX text for the oldest GPU that is to run it (`CUDA_COMPUTE_CAP`); newer ones compile it when they load
/// it. ptx.rs then has a constant for each.
#[cfg(feature = "cuda")]
fn compile_kernels() {
    let folder = "src/ops/cuda";
    let kernels = cudaforge::KernelBuilder::new()
        .source_dir(folder)
        .watch([format!("{folder}/common.cuh")])
        .args(["-O3", "-std=c++17"])
        .build_ptx();
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    if let Err(error) = kernels.and_then(|kernels| kernels.write(out.join("ptx.rs"))) {
        eprintln!(
            "error: cannot compile the CUDA kernels: {error}\n\nhint: `make build-cuda` installs nvcc from PyPI and builds"
        );
        std::process::exit(1);
    }
    // The program finds cuBLAS and the others where they were when it was built; libcuda is the driver's.
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    if let Ok(home) = std::env::var("CUDA_HOME") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{home}/lib");
    }
}
