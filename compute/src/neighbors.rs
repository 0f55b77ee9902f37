//! What this process leaves to others on the machine.

use std::io;
use std::path::Path;

/// Has this thread, and all that it starts from now on, yield to other processes: 0 not at all, 19 the most.
///
/// # Errors
/// Whatever the kernel says; on other systems than Linux that it cannot be done.
pub fn yield_to_others(niceness: u8) -> io::Result<()> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: `setpriority` takes three numbers; 0 stands for the calling thread.
        match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, i32::from(niceness)) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    {
        let _ = niceness;
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Bytes that this user may still write to the file system of `path`, or of the nearest folder above it that is there; `None` where
/// the system does not tell.
pub fn free_disk_bytes(path: &Path) -> Option<u64> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::ffi::CString;
        use std::os::unix::ffi::OsStrExt;
        let path = std::path::absolute(path).ok()?;
        let there = path.ancestors().find(|folder| folder.exists())?;
        let name = CString::new(there.as_os_str().as_bytes()).ok()?;
        // SAFETY: all-zero bytes are a valid `statvfs`, which holds nothing but numbers.
        let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: `name` ends with a zero byte, and `found` is writable.
        match unsafe { libc::statvfs(name.as_ptr(), &raw mut found) } {
            0 => Some(found.f_bavail * found.f_frsize),
            _ => None,
        }
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    {
        let _ = path;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_not_there_has_the_room_of_the_folder_above() {
        let (folder, nowhere) = (std::env::temp_dir(), std::env::temp_dir().join("not/there"));
        assert_eq!(
            free_disk_bytes(&nowhere).is_some(),
            free_disk_bytes(&folder).is_some()
        );
        assert!(free_disk_bytes(&folder).is_none_or(|bytes| bytes > 0));
    }
}
