//! Orders of destruction that no document allows, and that no call refuses: a program that has one works by luck, or ends
//! in a crash of the driver. They are said on stderr; the calls do what they do.

use super::Call;
use super::handle::Handle;
use super::state::{Module, Stream};
use super::work::Work;

impl Call {
    /// A module that goes while an executable graph still holds one of its kernels.
    pub fn check_unload(&self, module: Handle<Module>) {
        let kernels = self.execs.iter().filter_map(|(_, exec)| {
            exec.steps.iter().find_map(|step| match &step.work {
                Work::Kernel(kernel) if kernel.module == module => Some(&kernel.kernel.name),
                _ => None,
            })
        });
        let kernels: Vec<_> = kernels.collect();
        if let Some(kernel) = kernels.first() {
            super::say(&format!(
                "{}: {} executable graphs hold kernels of the module, one of them `{kernel}`: destroy the graphs first",
                self.function,
                kernels.len()
            ));
        }
    }

    /// A stream that goes with work in it that nobody has waited for. `cuStreamDestroy` does not wait either, so memory that
    /// is freed next is freed under that work.
    pub fn check_drained(&self, stream: &Stream) {
        if stream.last.is_some_and(|op| self.is_pending(op)) {
            super::say(&format!(
                "{}: the stream has work that nobody has waited for, and goes on with it: synchronise it first",
                self.function
            ));
        }
    }
}
