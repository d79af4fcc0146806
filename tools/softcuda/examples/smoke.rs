use softcuda::machine::*;
use softcuda::memory::Kind;
fn main() {
    let text = std::fs::read(std::env::args().nth(1).unwrap()).unwrap();
    let mut d = Device::new(&softcuda::profile::SM_80, Settings::default());
    let m = match Module::load(&text, &mut d) {
        Ok(m) => m,
        Err(e) => {
            println!("{e}");
            std::process::exit(1)
        }
    };
    let n = 1000u32;
    let a = d.memory.allocate(4096, Kind::Device, "a").unwrap();
    let b = d.memory.allocate(4096, Kind::Device, "b").unwrap();
    let c = d.memory.allocate(4096, Kind::Device, "c").unwrap();
    let va: Vec<u8> = (0..1024u32).flat_map(|i| (i * 3).to_le_bytes()).collect();
    d.memory.write(a, &va).unwrap();
    d.memory.write(b, &va).unwrap();
    let go = |d: &mut Device, name: &str, grid: u32, block: u32, params: Vec<u8>| {
        let k = m.kernel(name).unwrap();
        let r = launch(
            d,
            &m,
            &k,
            &Launch {
                grid: [grid, 1, 1],
                block: [block, 1, 1],
                shared: 0,
                params,
                cooperative: false,
                cluster: None,
                programmatic: false,
                stream: 0,
            },
        );
        match r {
            Ok(_) => println!("{name} ok"),
            Err(e) => println!("{name}: {e}"),
        }
        print!("{}", String::from_utf8_lossy(&d.output));
        d.output.clear();
    };
    let p = |v: &[u64]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let get = |d: &Device| {
        let mut v = vec![0u8; 4096];
        d.memory.read(c, &mut v).unwrap();
        v.chunks(4)
            .map(|x| i32::from_le_bytes(x.try_into().unwrap()))
            .collect::<Vec<_>>()
    };
    let mut pp = p(&[a, b, c]);
    pp.extend(n.to_le_bytes());
    go(&mut d, "vadd", 4, 256, pp);
    println!("{:?}", &get(&d)[995..1002]);
    let mut pp = p(&[a, c]);
    pp.extend(n.to_le_bytes());
    go(&mut d, "reduce", 1, 256, pp);
    println!("{} want {}", get(&d)[0], (0..1000).map(|i| i * 3).sum::<i32>());
    go(&mut d, "diverge", 1, 96, p(&[c]));
    let want: Vec<i32> = (0..96)
        .map(|t: i32| {
            let mut r = 0;
            for i in 0..t % 7 {
                if (t + i) % 3 == 0 {
                    continue;
                }
                r += i * t;
                if r > 100 {
                    break;
                }
            }
            match t % 5 {
                0 => r + 1,
                1 => r * 3,
                2 => r - 7,
                3 => r ^ 5,
                _ => !r,
            }
        })
        .collect();
    println!("diverge equal {}", get(&d)[..96] == want[..]);
    go(&mut d, "spin", 4, 64, vec![]);
    let (addr, _) = m.global("counter").unwrap();
    let mut v = [0u8; 4];
    d.memory.read(addr, &mut v).unwrap();
    println!("counter {}", i32::from_le_bytes(v));
    go(&mut d, "shfl", 1, 32, p(&[c]));
    go(&mut d, "recurse", 1, 64, p(&[c]));
    println!("{:?}", &get(&d)[..12]);
    go(&mut d, "racy", 1, 64, p(&[c]));
}
