//! What a process leaves that dies in the middle of something, and copies put back.

use super::*;

/// Steps at which a process can die in an apply, each with what is there afterwards: the old head or the new.
const DEATHS: [(&str, bool); 3] = [("before the head", false), ("before the cleaning", true), ("in a merge", false)];

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_between_the_steps_one_of_both_heads_is_there_and_the_same_is_applied_again() {
    for (death, is_new) in DEATHS {
        let (dir, mut model) = filled().await;
        let before = model.clone();
        let mut files = open(dir.path()).into_files();
        // Known keys again, enough for several runs and a merge; and something is forgotten.
        let pages = vec![model.numbers("new", 300..420, 50), model.numbers("a", 310..380, 51)];
        model.forget_below(5);
        let head = model.ledger.head.clone();
        let listed = runs(dir.path());
        let staged = files.stage(&pages, head.clone()).unwrap();
        let written: Vec<u64> = runs(dir.path()).into_iter().filter(|run| !listed.contains(run)).collect();
        assert!(written.len() > 2, "runs and merged ones: {written:?}");
        if is_new {
            files.commit(staged).unwrap();
        }
        drop(files);
        if death == "in a merge" {
            let path = dir.path().join(format!("store/run-{}", written.last().unwrap()));
            let file = fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }
        let view = open(dir.path());
        let expected = if is_new { &model } else { &before };
        expected.check(&view).await.unwrap_or_else(|reason| panic!("{death}: {reason}"));
        let left = runs(dir.path());
        assert!(is_new || left == listed, "{death}: {left:?}");
        drop(view);
        assert_eq!(records(open(dir.path())).len(), left.len(), "{death}: nothing is left that nobody lists");
        let view = open(dir.path());
        view.apply(pages, head).await.unwrap();
        model.check(&view).await.unwrap();
        let page = model.numbers("a", 0..500, 60);
        apply(&view, &model, vec![page]).await;
        drop(view);
        model.check(&open(dir.path())).await.unwrap();
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
    let view = open(original.path());
    for content in 50..60 {
        let page = model.numbers("a", 900..970, content);
        apply(&view, &model, vec![page]).await;
    }
    drop(view);
    let (foreign, _) = filled().await;

    let mixed = |from: &Path, name: &str, to: &str| {
        let dir = tempfile::tempdir().unwrap();
        copy(original.path(), dir.path());
        let (from, to) = (from.join("store").join(name), dir.path().join("store").join(to));
        crate::store::files::delete(&to).unwrap();
        if from.is_dir() {
            copy(&from, &to)
        } else {
            assert!(fs::copy(from, to).is_ok())
        }
        dir
    };
    let (first, last) = (runs(original.path())[0], *runs(original.path()).last().unwrap());
    let run = |number: u64| format!("run-{number}");
    let foreign_run = runs(foreign.path())[0];
    let other_run = mixed(original.path(), &run(first), &run(last));
    assert_eq!(open(other_run.path()).load().await.unwrap(), None, "one run in another's place");
    let foreign_run = mixed(foreign.path(), &run(foreign_run), &run(first));
    assert_eq!(open(foreign_run.path()).load().await.unwrap(), None, "a run of another store");
    let foreign_head = mixed(foreign.path(), "head-0", "head-0");
    assert_eq!(open(foreign_head.path()).load().await.unwrap(), None, "a head of another store");
    let older_head = mixed(older.path(), "head-0", "head-0");
    assert_eq!(open(older_head.path()).load().await.unwrap(), None, "it lists runs that have been merged since");
    old.check(&open(older.path())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_written_again_under_its_number_is_not_the_one_that_is_listed() {
    let (dir, mut model) = filled().await;
    let copies = tempfile::tempdir().unwrap();
    let pages = [model.clone().numbers("a", 900..1000, 50), model.numbers("a", 900..1000, 51)];
    let head = model.ledger.head.clone();
    let mut files = open(dir.path()).into_files();
    drop(files.stage(&pages[..1], head.clone()).unwrap());
    drop(files);
    copy(dir.path(), copies.path());
    let listed = runs(dir.path());
    let view = open(dir.path());
    view.apply(pages[1..].to_vec(), head).await.unwrap();
    model.check(&view).await.unwrap();
    drop(view);
    let again: Vec<u64> = runs(dir.path()).into_iter().filter(|run| listed.contains(run)).collect();
    let number = *again.last().unwrap();
    fs::copy(copies.path().join(format!("store/run-{number}")), dir.path().join(format!("store/run-{number}")))
        .unwrap();
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
