//! A program written with cudarc, which loads the library as it would load NVIDIA's.

mod support;

use std::ffi::CString;
use std::process::Command;

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg, sys};
use cudarc::nvrtc::Ptx;

/// The test runs itself again with softcuda on the loader's path: that is looked at when a process starts.
fn with_softcuda(name: &str) -> bool {
    if std::env::var_os("SOFTCUDA_TEST_INNER").is_some() {
        return true;
    }
    let mut command: Command = support::softcuda(&std::env::current_exe().unwrap());
    let output = command
        .args([name, "--exact", "--nocapture"])
        .env("SOFTCUDA_TEST_INNER", "1")
        .output()
        .unwrap();
    let text = support::stdout(&output) + &support::stderr(&output);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    assert!(!text.contains("not freed"), "{text}");
    false
}

const PTX: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry scale(.param .u64 data, .param .f32 factor, .param .u32 count)
{
    .reg .pred %p; .reg .b32 %r<5>; .reg .f32 %f<3>; .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [data]; ld.param.f32 %f1, [factor]; ld.param.u32 %r1, [count];
    cvta.to.global.u64 %rd1, %rd1;
    mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x;
    mad.lo.s32 %r2, %r2, %r3, %r4;
    setp.ge.u32 %p, %r2, %r1;
    @%p bra DONE;
    mul.wide.u32 %rd2, %r2, 4;
    add.s64 %rd2, %rd1, %rd2;
    ld.global.f32 %f2, [%rd2];
    mul.f32 %f2, %f2, %f1;
    st.global.f32 [%rd2], %f2;
DONE:
    ret;
}
";

#[test]
fn a_program_of_cudarc() {
    if !with_softcuda("a_program_of_cudarc") {
        return;
    }
    let context = CudaContext::new(0).unwrap();
    assert!(context.name().unwrap().contains("softcuda"));
    assert_eq!(context.compute_capability().unwrap(), (9, 0));
    let (free, total) = context.mem_get_info().unwrap();
    assert!(free <= total && total > 1 << 30);
    let module = context.load_module(Ptx::from_src(PTX)).unwrap();
    let scale = module.load_function("scale").unwrap();
    assert!(module.load_function("nothing").is_err());

    let host: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    for stream in [context.default_stream(), context.new_stream().unwrap()] {
        let mut data = stream.clone_htod(&host).unwrap();
        let count = host.len() as u32;
        let mut builder = stream.launch_builder(&scale);
        builder.arg(&mut data).arg(&1.5f32).arg(&count);
        // SAFETY: the arguments are the kernel's.
        unsafe { builder.launch(LaunchConfig::for_num_elems(count)) }.unwrap();
        let back = stream.clone_dtoh(&data).unwrap();
        stream.synchronize().unwrap();
        assert!(back.iter().zip(&host).all(|(got, from)| *got == from * 1.5));
        let zeros = stream.alloc_zeros::<f32>(10).unwrap();
        assert_eq!(stream.clone_dtoh(&zeros).unwrap(), [0.0; 10]);
        let event = stream.record_event(None).unwrap();
        event.synchronize().unwrap();
        assert!(event.is_complete());
    }

    // A graph that triples, launched twice.
    let stream = context.new_stream().unwrap();
    // cudarc would make the capture wait for events from before it, which CUDA refuses.
    // SAFETY: what follows stays in one stream.
    unsafe { context.disable_event_tracking() };
    let mut data = stream.clone_htod(&host).unwrap();
    stream.synchronize().unwrap();
    stream
        .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        .unwrap();
    let count = host.len() as u32;
    let mut builder = stream.launch_builder(&scale);
    builder.arg(&mut data).arg(&3f32).arg(&count);
    // SAFETY: the arguments are the kernel's.
    unsafe { builder.launch(LaunchConfig::for_num_elems(count)) }.unwrap();
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).unwrap().expect("a graph");
    graph.launch().unwrap();
    graph.launch().unwrap();
    let back = stream.clone_dtoh(&data).unwrap();
    stream.synchronize().unwrap();
    assert!(back.iter().zip(&host).all(|(got, from)| *got == from * 9.0));
}

#[test]
fn errors_reach_cudarc() {
    if !with_softcuda("errors_reach_cudarc") {
        return;
    }
    let context = CudaContext::new(0).unwrap();
    let error = context.load_module(Ptx::from_src("nonsense")).unwrap_err();
    assert_eq!(error.0, sys::CUresult::CUDA_ERROR_INVALID_PTX);
    assert!(
        error
            .error_name()
            .is_ok_and(|name| name == CString::from(c"CUDA_ERROR_INVALID_PTX").as_c_str())
    );
    assert_eq!(
        CudaContext::new(1).unwrap_err().0,
        sys::CUresult::CUDA_ERROR_INVALID_DEVICE
    );
}
