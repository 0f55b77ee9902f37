//! Compiles the kernels' sources as C++.

use std::fmt::Write;
use std::path::PathBuf;
use std::{env, fs};

/// Every module of kernels: its namespace, and its sources in order.
const MODULES: [(&str, &[&str]); 3] = [
    ("search", &["index/src/accelerated/search.cu"]),
    (
        "encoder",
        &[
            "encoder/src/accelerated/stored.cuh",
            "encoder/src/accelerated/encoder.cu",
        ],
    ),
    (
        "training",
        &[
            "encoder/src/accelerated/stored.cuh",
            "encoder/src/training/accelerated/training.cuh",
            "encoder/src/training/accelerated/attention.cu",
            "encoder/src/training/accelerated/training.cu",
        ],
    ),
];

fn main() {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../..");
    let mut all = String::from("#include \"emulated.cpp\"\n");
    let prelude = root.join("compute/src/accelerator/prelude.cuh");
    writeln!(all, "#include {:?}", prelude.display().to_string()).expect("a string grows");
    println!("cargo::rerun-if-changed={}", prelude.display());
    for (namespace, paths) in MODULES {
        writeln!(all, "namespace {namespace} {{").expect("a string grows");
        for path in paths {
            let shown = root.join(path).display().to_string();
            writeln!(all, "#include {shown:?}").expect("a string grows");
            println!("cargo::rerun-if-changed={shown}");
        }
        all.push_str("}\n");
    }
    println!("cargo::rerun-if-changed=src/emulated.cpp");
    println!("cargo::rerun-if-changed=src/host.h");
    let source = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it")).join("kernels.cpp");
    fs::write(&source, all).expect("the build folder can be written");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        // A device rounds each operation, unless the kernel says otherwise.
        .flag("-ffp-contract=off")
        // Memory has no type of its own on a device.
        .flag("-fno-strict-aliasing")
        // Jumps between fibers are none up a stack, which fortified ones insist on.
        .flag("-U_FORTIFY_SOURCE")
        .flag("-Wno-unknown-pragmas")
        .flag_if_supported("-Wno-clobbered")
        .include("src")
        .file(source)
        .compile("kernels");
}
