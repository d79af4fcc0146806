use softcuda::machine::*;
use softcuda::memory::Kind;
fn main() {
    let text = std::fs::read(std::env::args().nth(1).unwrap()).unwrap();
    let mut d = Device::new(&softcuda::profile::SM_80, Settings::from_env().unwrap());
    let m = Module::load(&text, &mut d).unwrap();
    let (mm, n, k) = (512u32, 3072u32, 1024u32);
    let bf = |x: f32| ((x.to_bits() >> 16) as u16).to_le_bytes();
    let a: Vec<u8> = (0..mm * k)
        .flat_map(|i| bf(((i * 7 + i / 1000) % 17) as f32 / 8.0 - 1.0))
        .collect();
    let b: Vec<u8> = (0..n * k)
        .flat_map(|i| bf(((i * 5 + i / 777) % 13) as f32 / 8.0 - 0.75))
        .collect();
    let pa = d.memory.allocate(a.len() as u64, Kind::Device, "a").unwrap();
    let pb = d.memory.allocate(b.len() as u64, Kind::Device, "b").unwrap();
    let pc = d.memory.allocate((mm * n * 4) as u64, Kind::Device, "c").unwrap();
    d.memory.write(pa, &a).unwrap();
    d.memory.write(pb, &b).unwrap();
    let mut p: Vec<u8> = [pa, pb, pc].iter().flat_map(|x| x.to_le_bytes()).collect();
    for v in [mm, n, k, 0] {
        p.extend(v.to_le_bytes());
    }
    let kern = m.kernel("gemm_bf16").unwrap();
    let t = std::time::Instant::now();
    let r = launch(
        &mut d,
        &m,
        &kern,
        &Launch {
            grid: [n / 128, mm / 128, 1],
            block: [256, 1, 1],
            shared: 49152,
            params: p,
            cooperative: false,
            cluster: None,
            programmatic: false,
            stream: 0,
        },
    );
    println!("{:?}", t.elapsed());
    match r {
        Err(e) => println!("{e}"),
        Ok(done) => {
            let total: u64 = done.counters.instructions.warps;
            println!("{total} warp instructions");
        }
    }
    let mut c = vec![0u8; (mm * n * 4) as usize];
    d.memory.read(pc, &mut c).unwrap();
    let f = |v: &[u8], i: usize| {
        f32::from_bits((u16::from_le_bytes([v[2 * i], v[2 * i + 1]]) as u32) << 16) as f64
    };
    let mut worst = 0.0f64;
    for (r, col) in [(0, 0), (1, 5), (511, 3071), (300, 2000), (77, 1234)] {
        let want: f64 = (0..k as usize)
            .map(|x| f(&a, r * k as usize + x) * f(&b, col * k as usize + x))
            .sum();
        let at = 4 * (r * n as usize + col);
        let got = f32::from_le_bytes(c[at..at + 4].try_into().unwrap()) as f64;
        worst = worst.max((got - want).abs());
    }
    println!("worst {worst}");
}
