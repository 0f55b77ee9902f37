//! Compiles kernels at run time, once for a machine.

use std::ffi::{CString, c_char};
use std::fs;
use std::path::{Path, PathBuf};

use cudarc::nvrtc::{Ptx, result};
use xxhash_rust::xxh3::xxh3_64;

use crate::accelerator::{AcceleratorError, Module, PRELUDE};

pub(super) struct Compiler {
    folder: Option<PathBuf>,
    /// As in `compute_90`.
    architecture: String,
}

impl Compiler {
    pub fn new(folder: Option<&Path>, (major, minor): (i32, i32)) -> Self {
        Self {
            folder: folder.map(Path::to_owned),
            architecture: format!("compute_{major}{minor}"),
        }
    }

    /// What was kept of the module when it was compiled before, for this device.
    pub fn kept(&self, module: &'static Module) -> Option<Ptx> {
        let ptx = fs::read_to_string(self.path(module)?).ok()?;
        // It is handed on as a string that ends with a zero.
        (!ptx.contains('\0')).then(|| Ptx::from_src(ptx))
    }

    fn path(&self, module: &'static Module) -> Option<PathBuf> {
        let hash = xxh3_64(source(module).as_bytes());
        let (name, architecture) = (module.name, &self.architecture);
        let file = format!("{name}-{hash:016x}-{architecture}.ptx");
        Some(self.folder.as_ref()?.join(file))
    }

    /// Compiles the module for this device, and keeps it. A folder that cannot be written costs time and nothing else.
    pub fn compile(&self, device: &str, module: &'static Module) -> Result<Ptx, AcceleratorError> {
        let compiled = self.run(&source(module));
        let ptx = compiled.map_err(|log| AcceleratorError::Compile {
            device: device.to_owned(),
            module: module.name,
            log,
        })?;
        if let Some(path) = self.path(module) {
            let _ = write(&path, &ptx);
        }
        Ok(Ptx::from_src(ptx))
    }

    /// Returns the code, or what the compiler said.
    fn run(&self, source: &str) -> Result<String, String> {
        let source = CString::new(source).map_err(|error| error.to_string())?;
        let program = result::create_program(&source, None).map_err(|error| error.to_string())?;
        let options = [
            format!("--gpu-architecture={}", self.architecture),
            "--std=c++17".to_owned(),
        ];
        // SAFETY: the program is there until it is destroyed at the end, and is used by this thread only.
        unsafe {
            let compiled = result::compile_program(program, &options)
                .and_then(|()| result::get_ptx(program))
                .map_err(|error| {
                    let log = result::get_program_log(program).map(text);
                    log.unwrap_or_else(|_| error.to_string())
                });
            let _ = result::destroy_program(program);
            compiled.map(text)
        }
    }
}

fn source(module: &Module) -> String {
    format!("{PRELUDE}\n{}", module.source)
}

/// The text before the zero that ends it.
fn text(characters: Vec<c_char>) -> String {
    let bytes = characters.into_iter().map(|character| character as u8);
    let bytes: Vec<u8> = bytes.take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Writes the file whole or not at all: other processes read it.
fn write(path: &Path, ptx: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let unfinished = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&unfinished, ptx)?;
    fs::rename(&unfinished, path)
}
