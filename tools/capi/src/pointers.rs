//! What C hands over, checked as far as a pointer can be: NULL, alignment, lengths, UTF-8. A failure
//! names the argument. That a pointer points to as much as its length says, for as long as the call
//! runs, is the caller's promise.

use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;

use crate::error::{Failure, Result};
use crate::types::ropeway_status::ROPEWAY_ERROR_UTF8;
use crate::types::{ROPEWAY_NUL_TERMINATED, ropeway_embed_options, ropeway_info, ropeway_options};

/// A struct that begins with `struct_size` and grows at its end.
///
/// # Safety
/// Any bytes must be a value of it, and it must have no padding.
pub unsafe trait Sized_: Copy {
    /// Its name in C.
    const NAME: &str;
    /// Its size in the first version that had it. The size of the type may grow past this one.
    const FIRST_SIZE: usize;
}

/// The length of this many words (`size_t` or pointers) and ints.
const fn size(words: usize, ints: usize) -> usize {
    words * size_of::<usize>() + ints * size_of::<i32>()
}

// SAFETY: numbers and raw pointers, end to end, as the size below says.
unsafe impl Sized_ for ropeway_options {
    const NAME: &str = "ropeway_options";
    const FIRST_SIZE: usize = size(9, 2);
}

// SAFETY: numbers and raw pointers, end to end, as the size below says.
unsafe impl Sized_ for ropeway_embed_options {
    const NAME: &str = "ropeway_embed_options";
    const FIRST_SIZE: usize = size(11, 8);
}

// SAFETY: numbers and raw pointers, end to end, as the size below says.
unsafe impl Sized_ for ropeway_info {
    const NAME: &str = "ropeway_info";
    const FIRST_SIZE: usize = size(14, 0);
}

/// No padding, which a caller might leave unset: an assertion for each struct that has no other fields yet.
const _: () = {
    assert!(size_of::<ropeway_options>() == ropeway_options::FIRST_SIZE);
    assert!(size_of::<ropeway_embed_options>() == ropeway_embed_options::FIRST_SIZE);
    assert!(size_of::<ropeway_info>() == ropeway_info::FIRST_SIZE);
};

/// No struct of any version is larger; a `struct_size` beyond it was never set.
const LARGEST: usize = 4096;

fn usable<T>(pointer: *const T, name: &str) -> Result<()> {
    if pointer.is_null() {
        return Err(Failure::argument(format!("{name} is NULL")));
    }
    if !pointer.is_aligned() {
        return Err(Failure::argument(format!(
            "{name} is not aligned to {} bytes",
            align_of::<T>()
        )));
    }
    Ok(())
}

/// The value behind a handle.
///
/// # Safety
/// A usable pointer points to a live `T` that nobody changes during `'a`.
pub unsafe fn reference<'a, T>(pointer: *const T, name: &str) -> Result<&'a T> {
    usable(pointer, name)?;
    // SAFETY: neither NULL nor misaligned; the rest is the caller's promise.
    Ok(unsafe { &*pointer })
}

/// Where a handle is to be written; it is NULL from now on.
///
/// # Safety
/// A usable pointer points to a pointer that this call alone uses.
pub unsafe fn out<'a, T>(pointer: *mut *mut T, name: &str) -> Result<&'a mut *mut T> {
    usable(pointer, name)?;
    // SAFETY: neither NULL nor misaligned; it need not have been set before, so it is written first.
    unsafe {
        pointer.write(std::ptr::null_mut());
        Ok(&mut *pointer)
    }
}

fn fits<T>(len: usize, name: &str) -> Result<()> {
    let most = isize::MAX as usize / size_of::<T>();
    if len > most {
        return Err(Failure::argument(format!(
            "{name}_len is {len}; at most {most} fit memory"
        )));
    }
    Ok(())
}

/// An array. Of an empty one the pointer does not matter.
///
/// # Safety
/// A usable pointer points to `len` values of `T` that nobody changes during `'a`.
pub unsafe fn slice<'a, T>(pointer: *const T, len: usize, name: &str) -> Result<&'a [T]> {
    if len == 0 {
        return Ok(&[]);
    }
    usable(pointer, name)?;
    fits::<T>(len, name)?;
    // SAFETY: neither NULL, nor misaligned, nor too long; the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(pointer, len) })
}

/// An array to be written.
///
/// # Safety
/// A usable pointer points to `len` values of `T` that this call alone uses.
pub unsafe fn slice_mut<'a, T>(pointer: *mut T, len: usize, name: &str) -> Result<&'a mut [T]> {
    if len == 0 {
        return Ok(&mut []);
    }
    usable(pointer, name)?;
    fits::<T>(len, name)?;
    // SAFETY: neither NULL, nor misaligned, nor too long; the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer, len) })
}

/// A string of `len` bytes, or one that ends with a NUL.
///
/// # Safety
/// A usable pointer points to that, and nobody changes it during `'a`.
pub unsafe fn text<'a>(pointer: *const c_char, len: usize, name: &str) -> Result<&'a str> {
    let bytes = if len == ROPEWAY_NUL_TERMINATED {
        usable(pointer, name)?;
        // SAFETY: it is not NULL; that it ends is the caller's promise.
        unsafe { CStr::from_ptr(pointer) }.to_bytes()
    } else {
        // SAFETY: the caller's promise.
        unsafe { slice(pointer.cast::<u8>(), len, name) }?
    };
    std::str::from_utf8(bytes).map_err(|problem| Failure {
        status: ROPEWAY_ERROR_UTF8,
        message: format!("{name} is not valid UTF-8 from byte {} on", problem.valid_up_to()),
    })
}

/// A string that ends with a NUL.
///
/// # Safety
/// As for [`text`].
pub unsafe fn string<'a>(pointer: *const c_char, name: &str) -> Result<&'a str> {
    // SAFETY: the caller's promise.
    unsafe { text(pointer, ROPEWAY_NUL_TERMINATED, name) }
}

/// A string that ends with a NUL, or NULL.
///
/// # Safety
/// As for [`text`].
pub unsafe fn optional<'a>(pointer: *const c_char, name: &str) -> Result<Option<&'a str>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    unsafe { string(pointer, name) }.map(Some)
}

/// The `struct_size` that the caller has set.
///
/// # Safety
/// A usable pointer points to a struct that begins with one.
unsafe fn size_of_callers<T: Sized_>(pointer: *const T, name: &str) -> Result<usize> {
    usable(pointer, name)?;
    // SAFETY: usable, and a `size_t` comes first.
    let size = unsafe { pointer.cast::<usize>().read() };
    if !(T::FIRST_SIZE..=LARGEST).contains(&size) {
        return Err(Failure::argument(format!(
            "{name}.struct_size is {size}; set it to sizeof({})",
            T::NAME
        )));
    }
    Ok(size)
}

/// A struct of the caller's version: what a shorter one lacks is zero, what a longer one has beyond
/// ours must be.
///
/// # Safety
/// A usable pointer points to as many initialised bytes as its `struct_size` says, if that is a size
/// such a struct can have.
pub unsafe fn sized<T: Sized_>(pointer: *const T, name: &str) -> Result<T> {
    // SAFETY: the caller's promise.
    let size = unsafe { size_of_callers(pointer, name) }?;
    let bytes = pointer.cast::<u8>();
    let (ours, mut value) = (size_of::<T>(), MaybeUninit::<T>::zeroed());
    // SAFETY: `size` bytes can be read, the value has room for its own, and any bytes are a `T`.
    let (value, beyond) = unsafe {
        std::ptr::copy_nonoverlapping(bytes, value.as_mut_ptr().cast(), size.min(ours));
        let beyond = std::slice::from_raw_parts(bytes.add(size.min(ours)), size - size.min(ours));
        (value.assume_init(), beyond)
    };
    if beyond.iter().any(|&byte| byte != 0) {
        return Err(Failure::argument(format!(
            "{name} has fields set that ropeway {} does not know; set them to zero or use a newer library",
            env!("CARGO_PKG_VERSION")
        )));
    }
    Ok(value)
}

/// Writes a struct of the caller's version: as much of it as that one has, and zeros beyond ours.
///
/// # Safety
/// A usable pointer points to as many bytes as its `struct_size` says, which this call alone uses.
pub unsafe fn write_sized<T: Sized_>(pointer: *mut T, value: &T, name: &str) -> Result<()> {
    // SAFETY: the caller's promise.
    let size = unsafe { size_of_callers(pointer.cast_const(), name) }?;
    let (ours, first) = (size_of::<T>(), size_of::<usize>());
    let (to, from) = (pointer.cast::<u8>(), std::ptr::from_ref(value).cast::<u8>());
    // SAFETY: `size` bytes can be written, of which `struct_size`, the first, stays; `size` and `ours`
    // are at least FIRST_SIZE, which is more than that.
    unsafe {
        to.add(first).write_bytes(0, size - first);
        std::ptr::copy_nonoverlapping(from.add(first), to.add(first), size.min(ours) - first);
    }
    Ok(())
}
