//! `cuGetProcAddress`: functions by name and CUDA version.

use std::ffi::{c_char, c_int, c_uint, c_void};

use super::result::{Answer, CUresult};
use super::{Call, address_of, exports, present, put, put_if, string};

/// `CUdriverProcAddressQueryResult`
const FOUND: c_uint = 0;
const NOT_FOUND: c_uint = 1;
const VERSION_NOT_SUFFICIENT: c_uint = 2;

const PER_THREAD: u64 = 2;

/// Functions that changed: by name, the CUDA version in which each form appeared, and its symbol's ending.
/// (cudaTypedefs.h has the versions.)
#[rustfmt::skip]
static VERSIONS: &[(&str, &[(c_int, &str)])] = &[
    ("cuArray3DCreate", &[(2000, ""), (3020, "_v2")]),
    ("cuArray3DGetDescriptor", &[(2000, ""), (3020, "_v2")]),
    ("cuArrayCreate", &[(2000, ""), (3020, "_v2")]),
    ("cuArrayGetDescriptor", &[(2000, ""), (3020, "_v2")]),
    ("cuCtxCreate", &[(2000, ""), (3020, "_v2"), (11040, "_v3"), (12050, "_v4")]),
    ("cuCtxDestroy", &[(2000, ""), (4000, "_v2")]),
    ("cuCtxGetDevice", &[(2000, ""), (13000, "_v2")]),
    ("cuCtxPopCurrent", &[(2000, ""), (4000, "_v2")]),
    ("cuCtxPushCurrent", &[(2000, ""), (4000, "_v2")]),
    ("cuCtxSynchronize", &[(2000, ""), (13000, "_v2")]),
    ("cuDeviceGetUuid", &[(9020, ""), (11040, "_v2")]),
    ("cuDevicePrimaryCtxRelease", &[(7000, ""), (11000, "_v2")]),
    ("cuDevicePrimaryCtxReset", &[(7000, ""), (11000, "_v2")]),
    ("cuDevicePrimaryCtxSetFlags", &[(7000, ""), (11000, "_v2")]),
    ("cuDeviceTotalMem", &[(2000, ""), (3020, "_v2")]),
    ("cuEventDestroy", &[(2000, ""), (4000, "_v2")]),
    ("cuEventElapsedTime", &[(2000, ""), (12080, "_v2")]),
    ("cuGetProcAddress", &[(11030, ""), (12000, "_v2")]),
    ("cuGraphAddDependencies", &[(10000, ""), (12030, "_v2")]),
    ("cuGraphAddKernelNode", &[(10000, ""), (12000, "_v2")]),
    ("cuGraphAddNode", &[(12020, ""), (12030, "_v2")]),
    ("cuGraphExecKernelNodeSetParams", &[(10010, ""), (12000, "_v2")]),
    ("cuGraphExecUpdate", &[(10020, ""), (12000, "_v2")]),
    ("cuGraphGetEdges", &[(10000, ""), (12030, "_v2")]),
    ("cuGraphInstantiate", &[(10000, ""), (11000, "_v2")]),
    ("cuGraphKernelNodeGetParams", &[(10000, ""), (12000, "_v2")]),
    ("cuGraphKernelNodeSetParams", &[(10000, ""), (12000, "_v2")]),
    ("cuGraphNodeGetDependencies", &[(10000, ""), (12030, "_v2")]),
    ("cuGraphNodeGetDependentNodes", &[(10000, ""), (12030, "_v2")]),
    ("cuGraphRemoveDependencies", &[(10000, ""), (12030, "_v2")]),
    ("cuGraphicsResourceGetMappedPointer", &[(3000, ""), (3020, "_v2")]),
    ("cuGraphicsResourceSetMapFlags", &[(3000, ""), (6050, "_v2")]),
    ("cuIpcOpenMemHandle", &[(4010, ""), (11000, "_v2")]),
    ("cuLinkAddData", &[(5050, ""), (6050, "_v2")]),
    ("cuLinkAddFile", &[(5050, ""), (6050, "_v2")]),
    ("cuLinkCreate", &[(5050, ""), (6050, "_v2")]),
    ("cuMemAdvise", &[(8000, ""), (12020, "_v2")]),
    ("cuMemAlloc", &[(2000, ""), (3020, "_v2")]),
    ("cuMemAllocHost", &[(2000, ""), (3020, "_v2")]),
    ("cuMemAllocPitch", &[(2000, ""), (3020, "_v2")]),
    ("cuMemFree", &[(2000, ""), (3020, "_v2")]),
    ("cuMemGetAddressRange", &[(2000, ""), (3020, "_v2")]),
    ("cuMemGetInfo", &[(2000, ""), (3020, "_v2")]),
    ("cuMemHostGetDevicePointer", &[(2020, ""), (3020, "_v2")]),
    ("cuMemHostRegister", &[(4000, ""), (6050, "_v2")]),
    ("cuMemPrefetchAsync", &[(8000, ""), (12020, "_v2")]),
    ("cuMemcpy2D", &[(2000, ""), (3020, "_v2")]),
    ("cuMemcpy2DAsync", &[(2000, ""), (3020, "_v2")]),
    ("cuMemcpy2DUnaligned", &[(2000, ""), (3020, "_v2")]),
    ("cuMemcpy3D", &[(2000, ""), (3020, "_v2")]),
    ("cuMemcpy3DAsync", &[(2000, ""), (3020, "_v2")]),
    ("cuMemcpy3DBatchAsync", &[(12080, ""), (13000, "_v2")]),
    ("cuMemcpyAtoA", &[(2000, ""), (3020, "_v2")]),
    ("cuMemcpyAtoD", &[(2000, ""), (3020, "_v2")]),
    ("cuMemcpyAtoH", &[(2000, ""), (3020, "_v2")]),
    ("cuMemcpyAtoHAsync", &[(2000, ""), (3020, "_v2")]),
    ("cuMemcpyBatchAsync", &[(12080, ""), (13000, "_v2")]),
    ("cuMemcpyDtoA", &[(2000, ""), (3020, "_v2")]),
    ("cuMemcpyDtoD", &[(2000, ""), (3020, "_v2")]),
    ("cuMemcpyDtoDAsync", &[(3000, ""), (3020, "_v2")]),
    ("cuMemcpyDtoH", &[(2000, ""), (3020, "_v2")]),
    ("cuMemcpyDtoHAsync", &[(2000, ""), (3020, "_v2")]),
    ("cuMemcpyHtoA", &[(2000, ""), (3020, "_v2")]),
    ("cuMemcpyHtoAAsync", &[(2000, ""), (3020, "_v2")]),
    ("cuMemcpyHtoD", &[(2000, ""), (3020, "_v2")]),
    ("cuMemcpyHtoDAsync", &[(2000, ""), (3020, "_v2")]),
    ("cuMemsetD16", &[(2000, ""), (3020, "_v2")]),
    ("cuMemsetD2D16", &[(2000, ""), (3020, "_v2")]),
    ("cuMemsetD2D32", &[(2000, ""), (3020, "_v2")]),
    ("cuMemsetD2D8", &[(2000, ""), (3020, "_v2")]),
    ("cuMemsetD32", &[(2000, ""), (3020, "_v2")]),
    ("cuMemsetD8", &[(2000, ""), (3020, "_v2")]),
    ("cuModuleGetGlobal", &[(2000, ""), (3020, "_v2")]),
    ("cuStreamBatchMemOp", &[(8000, ""), (11070, "_v2")]),
    ("cuStreamBeginCapture", &[(10000, ""), (10010, "_v2")]),
    ("cuStreamDestroy", &[(2000, ""), (4000, "_v2")]),
    ("cuStreamGetCaptureInfo", &[(10010, ""), (11030, "_v2"), (12030, "_v3")]),
    ("cuStreamGetCtx", &[(9020, ""), (12050, "_v2")]),
    ("cuStreamUpdateCaptureDependencies", &[(11030, ""), (12030, "_v2")]),
    ("cuStreamWaitValue32", &[(8000, ""), (11070, "_v2")]),
    ("cuStreamWaitValue64", &[(9000, ""), (11070, "_v2")]),
    ("cuStreamWriteValue32", &[(8000, ""), (11070, "_v2")]),
    ("cuStreamWriteValue64", &[(9000, ""), (11070, "_v2")]),
    ("cuTexRefGetAddress", &[(2000, ""), (3020, "_v2")]),
    ("cuTexRefSetAddress", &[(2000, ""), (3020, "_v2")]),
    ("cuTexRefSetAddress2D", &[(2020, ""), (3020, "_v2"), (4010, "_v3")]),
];

/// The symbol that a program of this CUDA version means by a function's name; an error when it is newer.
fn symbol(name: &str, version: c_int) -> Result<String, c_uint> {
    let Some((_, forms)) = VERSIONS.iter().find(|(base, _)| *base == name) else {
        return Ok(name.to_owned());
    };
    match forms.iter().rev().find(|(since, _)| *since <= version) {
        Some((_, ending)) => Ok(format!("{name}{ending}")),
        None => Err(VERSION_NOT_SUFFICIENT),
    }
}

fn find(name: &str, version: c_int, per_thread: bool) -> Result<*const (), c_uint> {
    // Of the forms of cuGraphInstantiate the newest has another name.
    let symbol = match name {
        "cuGraphInstantiate" if version >= 12000 => "cuGraphInstantiateWithFlags".to_owned(),
        _ => symbol(name, version)?,
    };
    // The query itself goes on with the default streams that it was asked for.
    if per_thread {
        for ending in ["_ptsz", "_ptds"] {
            if let Some(address) = address_of(&format!("{symbol}{ending}")) {
                return Ok(address);
            }
        }
    }
    address_of(&symbol).ok_or(NOT_FOUND)
}

impl Call {
    unsafe fn proc_address(
        &mut self,
        name: *const c_char,
        to: *mut *const c_void,
        version: c_int,
        flags: u64,
        status: *mut c_uint,
    ) -> Answer {
        present(to)?;
        if flags > PER_THREAD {
            return Err(CUresult::INVALID_VALUE);
        }
        // SAFETY: the function's caller vouches for the name and the results.
        unsafe {
            let name = string(name)?.to_string_lossy();
            match find(&name, version, self.per_thread || flags == PER_THREAD) {
                Ok(address) => {
                    put_if(status, FOUND);
                    put(to, address.cast())
                }
                Err(why) => {
                    put(to, std::ptr::null())?;
                    if status.is_null() {
                        return Err(CUresult::NOT_FOUND);
                    }
                    put_if(status, why);
                    match why {
                        // With a status the answer is in it.
                        VERSION_NOT_SUFFICIENT => Ok(()),
                        _ => Err(CUresult::NOT_FOUND),
                    }
                }
            }
        }
    }
}

exports! {
    fn cuGetProcAddress(
        call, name: *const c_char, to: *mut *const c_void, version: c_int, flags: u64
    ) {
        call.proc_address(name, to, version, flags, std::ptr::null_mut())
    }
    fn cuGetProcAddress_v2 [cuGetProcAddress_v2_ptsz] (
        call, name: *const c_char, to: *mut *const c_void, version: c_int, flags: u64, status: *mut c_uint
    ) {
        call.proc_address(name, to, version, flags, status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_choose_the_form() {
        assert_eq!(symbol("cuMemAlloc", 3010).as_deref(), Ok("cuMemAlloc"));
        assert_eq!(symbol("cuMemAlloc", 13000).as_deref(), Ok("cuMemAlloc_v2"));
        assert_eq!(symbol("cuCtxCreate", 12040).as_deref(), Ok("cuCtxCreate_v3"));
        assert_eq!(symbol("cuCtxCreate", 13000).as_deref(), Ok("cuCtxCreate_v4"));
        assert_eq!(symbol("cuCtxCreate", 1000), Err(VERSION_NOT_SUFFICIENT));
        assert_eq!(symbol("cuInit", 2000).as_deref(), Ok("cuInit"));
    }

    #[test]
    fn every_form_is_exported() {
        for (name, forms) in VERSIONS {
            for (version, _) in *forms {
                assert!(find(name, *version, false).is_ok(), "{name} {version}");
            }
        }
        let plain = find("cuLaunchKernel", 13000, false).unwrap();
        let per_thread = find("cuLaunchKernel", 13000, true).unwrap();
        assert_ne!(plain, per_thread);
        assert_eq!(find("cuMemFree", 13000, true), find("cuMemFree", 13000, false));
        assert_eq!(find("cuNothing", 13000, false), Err(NOT_FOUND));
    }
}
