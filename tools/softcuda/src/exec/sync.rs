/// (to come)
pub struct Sync {}
