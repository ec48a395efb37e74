//! Memory that was used once.

use std::ffi::{c_int, c_void};

/// Gives pages that hold only what was freed back to the system. glibc keeps them for ever where something that lives on lies behind
/// them; other libraries have no such call, and nothing is done.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and glibc locks its own arenas.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Unmaps the pages of this program and its libraries that nobody can write: code and constants that only a start needs do not come
/// back. They stay in the system's cache, from where the rest is mapped again when it is used. A debugger's break points are lost.
pub fn unmap_program() {
    // SAFETY: `unmap` has the type that is asked for, and uses what it is given during the call only.
    unsafe { libc::dl_iterate_phdr(Some(unmap), std::ptr::null_mut()) };
}

/// Page size of x86-64; where pages are larger, the system refuses, and nothing is unmapped.
const PAGE: usize = 4096;

unsafe extern "C" fn unmap(object: *mut libc::dl_phdr_info, _size: usize, _data: *mut c_void) -> c_int {
    // SAFETY: the caller is dl_iterate_phdr, whose object is good until this returns.
    let object = unsafe { &*object };
    let base = object.dlpi_addr;
    // SAFETY: so is its table of headers.
    let headers = unsafe { std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)) };
    for header in headers {
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let begin = usize::try_from(base + header.p_vaddr).unwrap_or_default() & !(PAGE - 1);
        let end = usize::try_from(base + header.p_vaddr + header.p_memsz).unwrap_or_default();
        // SAFETY: a loaded segment that is never written, not even by the loader: relocations lie in writable ones. So each page is what the file
        // holds, and comes from there again.
        unsafe { libc::madvise(begin as *mut c_void, end.saturating_sub(begin), libc::MADV_DONTNEED) };
    }
    0
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_unmapped_program_goes_on() {
        let mapped = || {
            let smaps = std::fs::read_to_string("/proc/self/smaps").expect("its own");
            let mut code = false;
            let mut sum = 0_u64;
            for line in smaps.lines() {
                let mut words = line.split_whitespace();
                match words.next() {
                    Some("Rss:") if code => {
                        sum += words.next().and_then(|size| size.parse::<u64>().ok()).expect("a size");
                    }
                    Some(range) if range.contains('-') => code = words.next() == Some("r-xp") && line.contains('/'),
                    _ => {}
                }
            }
            sum
        };
        let before = mapped();
        super::unmap_program();
        let after = mapped();
        assert!(after < before, "{after} of {before} KiB of code are mapped");
        assert_eq!(format!("{:.3}", 2.0_f64.sqrt()), "1.414");
    }
}
