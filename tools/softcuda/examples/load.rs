fn main() {
    for f in std::env::args().skip(1) {
        let text = std::fs::read(&f).unwrap();
        let mut d = softcuda::machine::Device::new(&softcuda::profile::SM_90, Default::default());
        match softcuda::machine::Module::load(&text, &mut d) {
            Ok(m) => println!("{f}: ok {:?}", m.kernels()),
            Err(e) => println!("{f}: {e}"),
        }
    }
}
