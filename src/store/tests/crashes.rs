//! What a process leaves that dies in the middle of something, and copies put back.

use super::*;

fn records_of(files: &crate::store::files::Files) -> Vec<SliceRecord> {
    files.slices.all.iter().map(|slice| slice.record).collect()
}

/// Steps at which a process can die in an apply, each with what is there afterwards: the old head or the new.
const DEATHS: [(&str, bool); 3] = [("before the head", false), ("before the cleaning", true), ("in a slice", false)];

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_between_the_steps_one_of_both_heads_is_there_and_the_same_is_applied_again() {
    for (death, is_new) in DEATHS {
        let (dir, mut model) = filled().await;
        let before = model.clone();
        let mut files = open(dir.path()).into_files();
        // Known keys again, enough for two slices; and something is forgotten.
        let pages = vec![model.numbers("new", 300..420, 50), model.numbers("a", 310..380, 51)];
        model.forget_below(5);
        let head = model.ledger.head.clone();
        let listed = records_of(&files);
        let staged = files.stage(&pages, head.clone()).unwrap();
        let written: Vec<SliceRecord> =
            records_of(&files).into_iter().filter(|slice| !listed.contains(slice)).collect();
        assert!(written.len() > 1, "{written:?}");
        if is_new {
            files.commit(staged).unwrap();
        }
        drop(files);
        if death == "in a slice" {
            let slice = *written.last().unwrap();
            poke(dir.path(), slice, b'm', 0, |_| None);
            poke(dir.path(), slice, b'b', 5, |_| None);
        }
        let view = open(dir.path());
        let expected = if is_new { &model } else { &before };
        expected.check(&view).await.unwrap_or_else(|reason| panic!("{death}: {reason}"));
        drop(view);
        let files = open(dir.path()).into_files();
        assert!(is_new || records_of(&files) == listed, "{death}");
        drop(files);
        let view = open(dir.path());
        view.apply(pages, head).await.unwrap();
        model.check(&view).await.unwrap();
        let page = model.numbers("a", 0..500, 60);
        apply(&view, &model, vec![page]).await;
        drop(view);
        let view = open(dir.path());
        model.check(&view).await.unwrap();
        let listed: Vec<u64> = records(view).iter().map(|slice| slice.number).collect();
        assert_eq!(trees(dir.path()), listed, "{death}: nothing is left that nobody lists");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_the_journal_lost_is_not_there_after_a_crash() {
    let (dir, mut model) = filled().await;
    let mut lost = model.clone();
    let mut files = open(dir.path()).into_files();
    let page = lost.numbers("a", 900..1000, 50);
    drop(files.stage(&[page], lost.ledger.head.clone()).unwrap());
    drop(files);
    let view = open(dir.path());
    model.check(&view).await.unwrap();
    assert_eq!(view.find(vec![key(901)]).await.unwrap(), [None]);
    let page = model.numbers("a", 950..1050, 51);
    apply(&view, &model, vec![page]).await;
    model.check(&view).await.unwrap();
    assert_eq!(view.find(vec![key(901)]).await.unwrap(), [None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bloated_head_is_written_anew_and_a_crash_in_that_loses_nothing() {
    let (dir, mut model) = filled().await;
    let copies = tempfile::tempdir().unwrap();
    copy(dir.path(), copies.path());
    let mut files = open(dir.path()).into_files();
    let kept = files.record.as_ref().unwrap().kept.clone();
    files.head.renew(&dir.path().join("store"), &kept).unwrap();
    drop(files);
    assert_eq!(heads(dir.path()), [1]);
    model.check(&open(dir.path())).await.unwrap();

    // Both are whole: the old one was about to be deleted.
    copy(&copies.path().join("store/head-0"), &dir.path().join("store/head-0"));
    let view = open(dir.path());
    let page = model.numbers("a", 700..710, 1);
    apply(&view, &model, vec![page]).await;
    model.check(&view).await.unwrap();
    drop(view);
    assert_eq!(heads(dir.path()), [1]);

    // The new one is not whole.
    let db = sled::open(dir.path().join("store/head-2")).unwrap();
    db.insert([b"p".as_slice(), &5_u64.to_be_bytes()].concat(), b"something").unwrap();
    drop(db);
    model.check(&open(dir.path())).await.unwrap();
    assert_eq!(heads(dir.path()), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_layout_is_built_anew() {
    let (dir, model) = filled().await;
    sled::open(dir.path().join("store/head")).unwrap().insert("layout", "5").unwrap();
    assert!(!is_survived(dir.path(), &model).await);
    assert!(!dir.path().join("store/head").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_about_to_be_closed_are_waited_for() {
    let (dir, model) = filled().await;
    let open_before = open(dir.path());
    let closing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        drop(open_before);
    });
    model.check(&open(dir.path())).await.unwrap();
    closing.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_is_the_older_view_and_a_mixture_is_none() {
    let (original, mut model) = filled().await;
    let old = model.clone();
    let older = tempfile::tempdir().unwrap();
    copy(original.path(), older.path());
    let third = records(open(original.path()))[3];
    let view = open(original.path());
    for content in 50..60 {
        let page = model.numbers("a", 900..970, content);
        apply(&view, &model, vec![page]).await;
    }
    model.forget_below(third.newest);
    apply(&view, &model, vec![]).await;
    let pages = (60..70).map(|content| model.numbers("a", 900..970, content)).collect();
    apply(&view, &model, pages).await;
    drop(view);
    let (foreign, _) = filled().await;

    let mixed = |from: &Path, name: &str, to: &str| {
        let dir = tempfile::tempdir().unwrap();
        copy(original.path(), dir.path());
        let (from, to) = (from.join("store").join(name), dir.path().join("store").join(to));
        crate::store::disk::delete(&to).unwrap();
        copy(&from, &to);
        dir
    };
    let older_slices = mixed(older.path(), "slices-0", "slices-0");
    assert_eq!(open(older_slices.path()).load().await.unwrap(), None, "slices of before");
    let foreign_slices = mixed(foreign.path(), "slices-0", "slices-0");
    assert_eq!(open(foreign_slices.path()).load().await.unwrap(), None, "slices of another store");
    let foreign_head = mixed(foreign.path(), "head-0", "head-0");
    assert_eq!(open(foreign_head.path()).load().await.unwrap(), None, "a head of another store");
    let older_head = mixed(older.path(), "head-0", "head-0");
    assert_eq!(
        open(older_head.path()).load().await.unwrap(),
        None,
        "it lists slices that others were written over since"
    );
    old.check(&open(older.path())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_that_was_written_again_under_its_number_is_not_the_one_that_is_listed() {
    let (dir, mut model) = filled().await;
    let copies = tempfile::tempdir().unwrap();
    let pages = [model.clone().numbers("a", 900..1000, 50), model.numbers("a", 900..1000, 51)];
    let head = model.ledger.head.clone();
    let mut files = open(dir.path()).into_files();
    drop(files.stage(&pages[..1], head.clone()).unwrap());
    drop(files);
    copy(dir.path(), copies.path());
    let view = open(dir.path());
    view.apply(pages[1..].to_vec(), head).await.unwrap();
    model.check(&view).await.unwrap();
    drop(view);
    fs::remove_dir_all(dir.path().join("store/slices-0")).unwrap();
    copy(&copies.path().join("store/slices-0"), &dir.path().join("store/slices-0"));
    assert_eq!(open(dir.path()).load().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_that_gives_no_sign_of_life_is_left_and_its_files_are_deleted() {
    let (dir, _) = filled().await;
    let hangs = SledView::open_with(dir.path(), SMALL, Duration::from_micros(1)).map(|_| ()).unwrap_err();
    assert!(matches!(hangs, StoreError::Hangs { .. }), "{hangs}");
    // As the next process does, while the thread of this one may still be at it.
    assert_eq!(open(dir.path()).load().await.unwrap(), None);
}
