/// (to come)
pub struct MatrixCopy {}
