//! What all blocks of one launch share: its number, the table of epochs, the sync variables in global memory.

use std::sync::Arc;

/// One kernel launch, as the race stamps know it. Cheap to clone; lives until the launch has ended.
///
/// Launches follow each other: everything of a launch is ordered before the next one. What a dependent launch
/// (programmatic dependent launch) does before its `griddepcontrol.wait` is asked for separately, with
/// [`Shadow::touched_by_launch`](crate::memory::Shadow::touched_by_launch).
#[derive(Clone)]
pub struct Launch {
    number: u64,
    _shared: Arc<()>,
}

impl Launch {
    pub(super) fn new(number: u64) -> Self {
        Self {
            number,
            _shared: Arc::new(()),
        }
    }

    /// Serial number, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }
}
