/// (to come)
pub struct Async {}
