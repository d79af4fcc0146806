//! The driver API as C programs see it.

mod support;

use std::mem::offset_of;
use std::process::Output;

use softcuda::driver::types::*;
use support::{compile, folder, softcuda, stderr, stdout, toolkit};

#[test]
fn the_whole_api_linked_and_loaded() {
    let Some(toolkit) = toolkit() else { return };
    let folder = folder("api");
    let linked = compile(&toolkit, &folder, "api", &[]);
    let loaded = compile(&toolkit, &folder, "api", &["-DBY_DLOPEN"]);
    for program in [linked, loaded] {
        for mode in ["eager", "lazy"] {
            let output = softcuda(&program).env("SOFTCUDA_ASYNC", mode).output().unwrap();
            let (out, err) = (stdout(&output), stderr(&output));
            assert!(output.status.success() && out == "OK\n", "{mode}: {out}{err}");
            assert!(err.contains("cuArrayCreate_v2 is not implemented"), "{err}");
            assert!(err.contains("runtime API are not supported"), "{err}");
            assert!(!err.contains("not freed"), "{err}");
        }
    }
}

#[test]
fn structures_have_the_layout_of_the_header() {
    let Some(toolkit) = toolkit() else { return };
    let folder = folder("layout");
    let output = softcuda(&compile(&toolkit, &folder, "layout", &[]))
        .output()
        .unwrap();
    let mut own = String::new();
    macro_rules! layout {
        ($name:literal $ty:ident $($field:ident)*) => {
            own += &format!("{} {}", $name, size_of::<$ty>());
            $(own += &format!(" {}", offset_of!($ty, $field));)*
            own += "\n";
        };
    }
    layout!("CUDA_MEMCPY2D" CUDA_MEMCPY2D src_memory_type src_host dst_memory_type dst_device dst_pitch height);
    layout!("CUDA_MEMCPY3D" CUDA_MEMCPY3D src_memory_type src_host dst_memory_type dst_device dst_pitch depth);
    layout!("CUDA_MEMCPY3D_PEER" CUDA_MEMCPY3D
        src_memory_type src_host dst_memory_type dst_device dst_pitch depth);
    layout!("CUDA_KERNEL_NODE_PARAMS" CUDA_KERNEL_NODE_PARAMS grid block shared kernel_params extra kern ctx);
    layout!("CUDA_MEMSET_NODE_PARAMS" CUDA_MEMSET_NODE_PARAMS value element_size height);
    layout!("CUDA_HOST_NODE_PARAMS" CUDA_HOST_NODE_PARAMS user_data);
    layout!("CUlaunchConfig" CUlaunchConfig block shared stream attrs num_attrs);
    let value = offset_of!(CUlaunchAttribute, value);
    own += &format!(
        "CUlaunchAttribute {} {value} {}\n",
        size_of::<CUlaunchAttribute>(),
        value + 4
    );
    layout!("CUmemPoolProps" CUmemPoolProps handle_types location max_size);
    layout!("CUmemAccessDesc" CUmemAccessDesc flags);
    layout!("CUgraphEdgeData" CUgraphEdgeData kind);
    layout!("CUDA_GRAPH_INSTANTIATE_PARAMS" CUDA_GRAPH_INSTANTIATE_PARAMS upload_stream err_node_out result_out);
    layout!("CUgraphExecUpdateResultInfo" CUgraphExecUpdateResultInfo error_node error_from_node);
    layout!("CUctxCreateParams" CUctxCreateParams num_affinity cig);
    layout!("CUdevprop" CUdevprop simd_width texture_align);
    layout!("CUuuid" CUuuid);
    assert_eq!(stdout(&output), own.trim_end());
}

/// Each argument out of its limits is refused, and said which one; none within them is.
#[test]
fn arguments_of_tensor_maps_are_checked() {
    let Some(toolkit) = toolkit() else { return };
    let program = compile(&toolkit, &folder("tensor_map"), "tensor_map", &[]);
    let output = softcuda(&program).output().unwrap();
    let said = stderr(&output);
    assert!(output.status.success(), "{}{said}", stdout(&output));
    for (case, word) in [
        ("now.rank = 4", "a rank of 4"),
        ("now.strides[0] = 216", "globalStrides[0] is 216"),
        ("now.box[1] = 257", "boxDim[1] is 257"),
        ("now.box[0] = 128", "the swizzle spans 128"),
        ("now.interleave", "interleaved"),
    ] {
        let mut lines = said.lines().skip_while(|line| !line.contains(case));
        let reason = lines.nth(1).unwrap_or_default();
        assert!(reason.contains(word), "{case}: {reason}");
    }
}

/// Runs one of `small.c`'s programs.
fn small(name: &str, environment: &[(&str, &str)]) -> Option<Output> {
    let toolkit = toolkit()?;
    let program = compile(&toolkit, &folder(&format!("small-{name}")), "small", &[]);
    let mut command = softcuda(&program);
    command.arg(name).envs(environment.iter().copied());
    Some(command.output().unwrap())
}

#[test]
fn lazy_streams_show_what_was_not_waited_for() {
    let Some(eager) = small("race", &[]) else { return };
    assert_eq!(stdout(&eager), "before 2 after 2; pageable 5");
    let lazy = small("race", &[("SOFTCUDA_ASYNC", "lazy")]).unwrap();
    assert_eq!(stdout(&lazy), "before 1 after 3; pageable 5");
}

#[test]
fn a_wrong_order_of_destruction_is_said() {
    let lazy = [("SOFTCUDA_ASYNC", "lazy")];
    let Some(right) = small("order", &lazy) else {
        return;
    };
    assert!(
        right.status.success() && stderr(&right).is_empty(),
        "{}",
        stderr(&right)
    );
    let unloaded = "cuModuleUnload: 1 executable graphs hold kernels of the module, one of them `idle`";
    let wrong = small("wrong-order", &lazy).unwrap();
    let said = stderr(&wrong);
    assert!(wrong.status.success(), "{}", stdout(&wrong));
    assert!(
        said.contains(unloaded) && said.contains("cuStreamDestroy_v2: the stream has work"),
        "{said}"
    );
    // Work that is done at once is done when the stream goes.
    let eager = stderr(&small("wrong-order", &[]).unwrap());
    assert!(
        eager.contains(unloaded) && !eager.contains("cuStreamDestroy"),
        "{eager}"
    );
}

#[test]
fn leaks_are_reported() {
    let Some(toolkit) = toolkit() else { return };
    let folder = folder("leak");
    let program = compile(&toolkit, &folder, "small", &[]);
    let calls = folder.join("calls.json");
    let output = softcuda(&program)
        .arg("leak")
        .env("SOFTCUDA_CALLS", &calls)
        .output()
        .unwrap();
    let text = stderr(&output);
    assert!(text.contains("with 1 allocations not freed (24 bytes)"), "{text}");
    assert!(text.contains("by cuMemAlloc_v2 (call 5)"), "{text}");
    let json = std::fs::read_to_string(calls).unwrap();
    assert!(
        json.contains("\"cuMemAlloc_v2\": 2,") && json.contains("\"leaked_allocations\": 1"),
        "{json}"
    );
}

#[test]
fn faults_come_where_they_were_asked_for() {
    let Some(none) = small("faults", &[]) else { return };
    assert_eq!(stdout(&none), "0 0 0 0 0 0 0 0 0");
    for (faults, results) in [
        ("cuMemAlloc_v2:2=CUDA_ERROR_OUT_OF_MEMORY", "0 0 0 0 2 0 0 0 0"),
        ("cuMemAlloc:*=CUDA_ERROR_OUT_OF_MEMORY", "0 0 0 2 2 2 1 0 0"),
        ("any:8=CUDA_ERROR_UNKNOWN", "0 0 0 0 0 0 0 999 0"),
        ("memory=1500KiB", "0 0 0 0 0 2 0 0 0"),
        ("allocation=599KiB", "0 0 0 2 2 2 1 0 0"),
        (
            "sticky:cuMemsetD8_v2:1=CUDA_ERROR_ILLEGAL_ADDRESS",
            "0 0 0 0 0 0 700 700 700",
        ),
        ("cuInit:1=CUDA_ERROR_NO_DEVICE", "100 3 3 3 3 3 3 3 3"),
        ("nonsense", "1 3 3 3 3 3 3 3 3"),
    ] {
        let output = small("faults", &[("SOFTCUDA_FAULTS", faults)]).unwrap();
        assert_eq!(stdout(&output), results, "{faults}: {}", stderr(&output));
        if faults == "nonsense" {
            assert!(
                stderr(&output).contains("sticky:FUNCTION:N=ERROR"),
                "{}",
                stderr(&output)
            );
        }
    }
}

#[test]
fn devices_are_chosen_by_the_environment() {
    let list = [("SOFTCUDA_DEVICE", "sm_80,sm_89,sm_90")];
    let Some(output) = small("devices", &list) else {
        return;
    };
    assert_eq!(stdout(&output), "8.0 166912;8.9 101376;9.0 232448;");
}

#[test]
fn calls_are_logged() {
    let Some(output) = small("devices", &[("SOFTCUDA_LOG", "calls")]) else {
        return;
    };
    let text = stderr(&output);
    assert!(
        text.contains("softcuda: call 1 cuInit(flags=0) = CUDA_SUCCESS"),
        "{text}"
    );
}

/// Every function that the header declares, old forms and per-thread ones among them, is in the library.
#[test]
fn every_function_of_the_header_is_exported() {
    let Some(toolkit) = toolkit() else { return };
    let folder = folder("exports");
    for (name, define) in [
        ("plain", ""),
        ("ptsz", "CUDA_API_PER_THREAD_DEFAULT_STREAM"),
        ("old", "__CUDA_API_VERSION_INTERNAL"),
    ] {
        let source = folder.join(format!("{name}.c"));
        let define = if define.is_empty() {
            String::new()
        } else {
            format!("#define {define}\n")
        };
        std::fs::write(
            &source,
            format!("{define}#include <cuda.h>\n#include <cudaProfiler.h>\n"),
        )
        .unwrap();
        let mut command = std::process::Command::new("cc");
        command
            .args(["-E", "-P", "-I"])
            .arg(toolkit.join("include"))
            .arg(&source);
        let mut output = command.output().unwrap();
        if !output.status.success() {
            // The profiler's header is another package.
            std::fs::write(&source, format!("{define}#include <cuda.h>\n")).unwrap();
            output = command.output().unwrap();
        }
        assert!(output.status.success(), "{}", stderr(&output));
        let text = stdout(&output);
        let mut number = 0;
        for declaration in text.split("CUresult ").skip(1) {
            let name = declaration
                .trim_start()
                .trim_start_matches("__attribute__((deprecated)) ");
            let name = &name[..name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(0)];
            let declared = declaration[declaration.find(name).unwrap() + name.len()..]
                .trim_start()
                .starts_with('(');
            if name.starts_with("cu") && declared {
                number += 1;
                assert!(
                    softcuda::driver::address_of(name).is_some(),
                    "{name} is not exported"
                );
            }
        }
        assert!(number > 400, "{name}: {number} functions found in the header");
    }
}
