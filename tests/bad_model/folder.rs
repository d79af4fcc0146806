//! Paths and ids that are no model, and folders that lack a file.

use std::fs;

use model_maker::Family;
use ropeway::Engine;

use crate::common::{Scratch, Table, tiny};
use crate::{open, weights};

#[test]
fn a_path_that_is_no_model_is_refused() {
    let scratch = Scratch::empty();
    let path = |name: &str| scratch.path().join(name);
    fs::create_dir(path("empty")).unwrap();
    fs::write(path("file"), "x").unwrap();
    let mut table = Table::new("paths");
    table.refused(
        "no such folder",
        &["nowhere", "there is no such folder", "hub id", "from_hub"],
        || open(&path("nowhere")),
    );
    for id in ["nowhere", "a/b/c", "owner/", "a b/c"] {
        table.refused(id, &[id, "is not a hub id", "`owner/name`"], || {
            Engine::builder().offline(true).from_hub(id)
        });
    }
    table.refused("a file", &["file", "give the model's folder"], || {
        open(&path("file"))
    });
    table.refused("an empty folder", &["empty/config.json", "No such file"], || {
        open(&path("empty"))
    });
    let only_pickle = Scratch::model(&tiny(Family::Bert));
    fs::rename(
        weights(only_pickle.path()),
        only_pickle.path().join("pytorch_model.bin"),
    )
    .unwrap();
    table.refused(
        "pickled weights",
        &["pytorch_model.bin", "safe_serialization"],
        || open(only_pickle.path()),
    );
    fs::remove_file(only_pickle.path().join("pytorch_model.bin")).unwrap();
    table.refused("no weights", &["neither model.safetensors nor"], || {
        open(only_pickle.path())
    });
    table.finish();
}
