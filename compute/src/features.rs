use std::fmt;

/// The instruction set extensions that our kernels may use, as this machine reports them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuFeatures {
    names: Vec<&'static str>,
}

impl CpuFeatures {
    /// Asks the processor.
    pub fn detect() -> Self {
        #[allow(unused_mut, reason = "architectures without a list below have none")]
        let mut names = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            macro_rules! ask {
                ($($name:tt),*) => { $( if std::arch::is_x86_feature_detected!($name) { names.push($name); } )* };
            }
            ask!(
                "avx2",
                "fma",
                "f16c",
                "avx512f",
                "avx512bw",
                "avx512vl",
                "avx512vnni",
                "avx512bf16",
                "avx512fp16"
            );
            names.extend(crate::amx::features());
        }
        #[cfg(target_arch = "aarch64")]
        names.push("neon");
        Self { names }
    }

    /// Whether the processor has an extension, named as Rust's target features are.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains(&name)
    }
}

impl fmt::Display for CpuFeatures {
    /// Writes the names with spaces between them, or `none`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.names.is_empty() {
            return formatter.write_str("none");
        }
        formatter.write_str(&self.names.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_with_spaces() {
        assert_eq!(CpuFeatures::default().to_string(), "none");
        let features = CpuFeatures {
            names: vec!["avx2", "fma"],
        };
        assert_eq!(features.to_string(), "avx2 fma");
        assert!(features.has("fma") && !features.has("avx512f"));
    }
}
