//! Files that are not what was written: noticed, and built anew.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_in_any_file_is_survived() {
    let (original, model) = filled().await;
    let mut survived = 0;
    for file in files(&original.path().join("store")) {
        for seed in 0..4 {
            let dir = tempfile::tempdir().unwrap();
            copy(original.path(), dir.path());
            let path = dir.path().join(file.strip_prefix(original.path()).unwrap());
            let mut dice = StdRng::seed_from_u64(seed);
            let mut bytes = fs::read(&path).unwrap();
            let (count, end) = match seed {
                0 => (bytes.len(), bytes.len()),
                1 => (64, bytes.len()),
                // The first pages, where something is.
                2 => (64, bytes.len().min(4096)),
                _ => (1, bytes.len().min(20_000)),
            };
            for _ in 0..count {
                let place = dice.random_range(0..end.max(1));
                if let Some(byte) = bytes.get_mut(place) {
                    *byte = dice.random();
                }
            }
            fs::write(&path, bytes).unwrap();
            survived += u32::from(is_survived_within(dir.path(), &model, Duration::from_secs(4)).await);
        }
    }
    eprintln!("{survived} were not touched where it matters");
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_and_empty_files_are_survived() {
    let (original, model) = filled().await;
    for file in files(&original.path().join("store")) {
        let length = fs::metadata(&file).unwrap().len();
        for length in [0, 1, length / 2, length.saturating_sub(1), length.saturating_sub(300_000)] {
            let dir = tempfile::tempdir().unwrap();
            copy(original.path(), dir.path());
            let path = dir.path().join(file.strip_prefix(original.path()).unwrap());
            fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
            is_survived_within(dir.path(), &model, Duration::from_secs(4)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_looks_is_told_of_damage_and_deletes_nothing() {
    let (original, model) = filled().await;
    let mut told = 0;
    for file in files(&original.path().join("store")) {
        let name = file.strip_prefix(original.path()).unwrap();
        for damage in ["rubbish", "empty", "away"] {
            let dir = tempfile::tempdir().unwrap();
            copy(original.path(), dir.path());
            let path = dir.path().join(name);
            match damage {
                "rubbish" => fs::write(&path, vec![0xa5; fs::metadata(&path).unwrap().len() as usize]).unwrap(),
                "empty" => fs::write(&path, "").unwrap(),
                _ => fs::remove_file(&path).unwrap(),
            }
            let others = files(&dir.path().join("store")).len();
            let looked = match SledView::look_with(dir.path(), SMALL, Duration::from_secs(4)) {
                Ok(view) => view.load().await.map(|ledger| (view, ledger)),
                Err(error) => Err(error),
            };
            match looked {
                // What is read later is checked when it is read.
                Ok((view, Some(_))) => match model.check(&view).await {
                    Ok(()) => {}
                    Err(why) => assert!(why.contains("is damaged") || why.contains("another ledger"), "{why}"),
                },
                Ok((_, None)) => panic!("{} {damage}: taken for a view that was never there", name.display()),
                Err(error @ StoreError::Damaged { .. }) => {
                    let said = error.to_string();
                    assert!(said.contains("is damaged") && said.contains("call-legs state rebuild"), "{said}");
                    told += 1;
                }
                Err(error) => panic!("{} {damage}: {error}", name.display()),
            }
            assert!(files(&dir.path().join("store")).len() >= others, "{} {damage}: deleted more", name.display());
        }
    }
    assert!(told > 3, "{told}");
    let empty = tempfile::tempdir().unwrap();
    assert!(SledView::look(empty.path()).unwrap().load().await.unwrap().is_none(), "there is no view yet");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_looks_at_the_store_of_another_version_is_told_of_no_damage() {
    let (original, _) = filled().await;
    for (layout, is_another) in [("6.1", true), ("8", true), ("six", false), ("", false)] {
        let dir = tempfile::tempdir().unwrap();
        copy(original.path(), dir.path());
        let db = sled::open(dir.path().join("store/head-0")).unwrap();
        db.insert("layout", layout).unwrap();
        db.flush().unwrap();
        drop(db);
        let before = files(dir.path()).len();
        let looked = SledView::look_with(dir.path(), SMALL, Duration::from_secs(4)).err().unwrap();
        assert_eq!(matches!(looked, StoreError::OtherLayout { .. }), is_another, "{layout}: {looked}");
        assert_eq!(files(dir.path()).len(), before, "{layout}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn things_in_the_wrong_place_are_survived() {
    let (original, model) = filled().await;
    let damages: [&dyn Fn(&Path); 8] = [
        &|store| fs::write(store.join("head-0/snap.0FFFFFFFFFFFFFFF.generating"), b"half").unwrap(),
        &|store| {
            delete_all(store);
            fs::write(store, "a file").unwrap();
        },
        &|store| {
            fs::remove_dir_all(store.join("head-0")).unwrap();
            fs::write(store.join("head-0"), "a file").unwrap();
        },
        &|store| {
            let database = first_database(store);
            fs::remove_dir_all(&database).unwrap();
            fs::write(&database, "a file").unwrap();
        },
        &|store| fs::remove_dir_all(first_database(store)).unwrap(),
        &|store| fs::remove_dir_all(store.join("head-0")).unwrap(),
        &|store| fs::create_dir(store.join("opening")).unwrap(),
        &|store| fs::write(store.join("opening"), [9]).unwrap(),
    ];
    for (number, damage) in damages.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        copy(original.path(), dir.path());
        damage(&dir.path().join("store"));
        assert!(!is_survived(dir.path(), &model).await, "{number}");
    }
    let dir = tempfile::tempdir().unwrap();
    copy(original.path(), dir.path());
    fs::create_dir(dir.path().join("store/slices-777")).unwrap();
    fs::write(dir.path().join("store/slices-888"), "x").unwrap();
    fs::write(dir.path().join("store/slices-999x"), "x").unwrap();
    fs::write(dir.path().join("store/opening"), [1]).unwrap();
    assert!(is_survived(dir.path(), &model).await, "what is nobody's harms nobody");
}

fn first_database(store: &Path) -> PathBuf {
    store.join(format!("slices-{}", databases(store.parent().unwrap())[0]))
}

fn delete_all(path: &Path) {
    fs::remove_dir_all(path).unwrap();
}

/// A copy of the view in which one value of the head's database is changed, or removed.
fn changed(original: &Path, key: &[u8], change: impl FnOnce(&mut Vec<u8>) -> bool) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy(original, dir.path());
    let db = sled::open(dir.path().join("store/head-0")).unwrap();
    let mut value = db.get(key).unwrap().unwrap().to_vec();
    if change(&mut value) {
        db.insert(key, value).unwrap()
    } else {
        db.remove(key).unwrap()
    };
    drop(db);
    dir
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_or_missing_value_is_noticed_although_sled_has_nothing_to_complain_of() {
    let (original, model) = filled().await;
    let flip = |value: &mut Vec<u8>| {
        value[9] ^= 1;
        true
    };
    let page = [b"p".as_slice(), &5_u64.to_be_bytes()].concat();
    let chunk = [b"e".as_slice(), &0_u64.to_be_bytes()].concat();
    let backfill = [b"F".as_slice(), &[7; 16]].concat();
    let parts = [b"Ha".as_slice(), b"Da", &backfill, b"N\0\0", b"S\0\0\0\0\0\0\0\0"];
    for key in [b"head".as_slice(), b"id", &page, &chunk].into_iter().chain(parts) {
        let dir = changed(original.path(), key, flip);
        assert!(!is_survived(dir.path(), &model).await, "{key:?}");
    }
    for key in [page.as_slice(), &chunk].into_iter().chain(parts) {
        let dir = changed(original.path(), key, |_| false);
        assert!(!is_survived(dir.path(), &model).await, "{key:?} is missing");
    }
    let another = |value: &mut Vec<u8>| {
        value[0] = b'9';
        true
    };
    let dir = changed(original.path(), b"layout", another);
    assert!(!is_survived(dir.path(), &model).await, "another layout");
}

fn flipped(mut value: Vec<u8>, place: usize) -> Option<Vec<u8>> {
    value[place] ^= 1;
    Some(value)
}

/// What is done to a value.
type Damage<'a> = &'a dyn Fn(Vec<u8>) -> Option<Vec<u8>>;

#[tokio::test(flavor = "multi_thread")]
async fn a_poked_bucket_is_noticed_when_it_is_read_and_never_a_wrong_answer() {
    let (original, model) = filled().await;
    let slices = records(open(original.path()));
    let mut other = Vec::new();
    poke(original.path(), slices[0], b'b', 2, |value| {
        Some({
            other.clone_from(&value);
            value
        })
    });
    let mut of_another_slice = Vec::new();
    poke(original.path(), slices[1], b'b', 1, |value| {
        Some({
            of_another_slice.clone_from(&value);
            value
        })
    });
    let damages: [Damage<'_>; 6] = [
        &|value| flipped(value, 3),
        &|value| {
            let last = value.len() - 1;
            flipped(value, last)
        },
        &|value| Some(vec![0; value.len()]),
        &|_| Some(other.clone()),
        &|_| Some(of_another_slice.clone()),
        &|_| None,
    ];
    for (number, damage) in damages.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        copy(original.path(), dir.path());
        poke(dir.path(), slices[0], b'b', 1, damage);
        let view = open(dir.path());
        assert!(view.load().await.unwrap().is_some(), "an older slice's buckets are not read at opening");
        let keys: Vec<KeyHash> = model.entries.keys().copied().collect();
        let mut failed = 0;
        for key in &keys {
            match view.find(vec![*key]).await {
                Ok(found) => assert_eq!(found[0].as_ref(), model.entries.get(key)),
                Err(error) => {
                    assert!(error.to_string().contains("not what was written"), "{error}");
                    failed += 1;
                }
            }
        }
        assert!(0 < failed && failed < keys.len(), "{number}: {failed} of {}", keys.len());
        assert!(all(&view).await.is_err());
        drop(view);
        assert!(!is_survived(dir.path(), &model).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_slice_has_in_memory_is_checked_at_opening() {
    let (original, _) = filled().await;
    let slice = records(open(original.path()))[0];
    let damages: [Damage<'_>; 4] = [
        &|value| flipped(value, 3),
        &|value| {
            let place = value.len() - 9;
            flipped(value, place)
        },
        &|value| Some(value[..20].to_vec()),
        &|_| None,
    ];
    for (number, damage) in damages.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        copy(original.path(), dir.path());
        poke(dir.path(), slice, b'm', 0, damage);
        assert_eq!(open(dir.path()).load().await.unwrap(), None, "{number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_its_end_is_survived_even_where_sled_spins() {
    // Larger, since only a database of some length makes sled spin when its end is missing.
    let dir = tempfile::tempdir().unwrap();
    let view = SledView::open_with(dir.path(), Sizes::default(), PATIENCE).unwrap();
    let mut model = Model::new();
    for number in 0..40 {
        let page = model.numbers("a", number * 500..number * 500 + 500, 1);
        apply(&view, &model, vec![page]).await;
    }
    drop(view);
    let mut outcomes = BTreeMap::new();
    for cut in [100_000, 300_000, 524_288, 1_000_000] {
        let dir2 = tempfile::tempdir().unwrap();
        copy(dir.path(), dir2.path());
        let path = dir2.path().join("store/head-0/db");
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(length.saturating_sub(cut)).unwrap();
        let view = SledView::open_with(dir2.path(), SMALL, Duration::from_secs(3));
        let outcome = match &view {
            Err(StoreError::Hangs { .. }) => {
                assert!(files(&dir2.path().join("store")).is_empty());
                "hangs"
            }
            Err(error) => panic!("{error}"),
            Ok(view) => match view.load().await.unwrap() {
                None => "emptied",
                Some(found) if is_brought_up_to_date(view, &found, &model).await => "whole",
                Some(_) => "damaged",
            },
        };
        *outcomes.entry(outcome).or_insert(0) += 1;
        drop(view);
        assert_eq!(open(dir2.path()).load().await.unwrap().is_some(), ["whole", "damaged"].contains(&outcome));
    }
    eprintln!("{outcomes:?}");
}
