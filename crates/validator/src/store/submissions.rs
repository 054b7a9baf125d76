//! Weights on their way to the chain.

use nicompute_market::{BlockNumber, Uid, UnixMillis};
use sqlx::Row as _;
use sqlx::sqlite::{SqliteQueryResult, SqliteRow};

use super::{Store, StoreError, WeightSet, bytes_of, damaged, failed, number_of, stored, text_of};

/// Submissions that are kept for questions about the past.
const SUBMISSIONS_KEPT_MAX: i64 = 1_000;
/// The longest note; what nodes say is cut.
const NOTE_CHARS_MAX: usize = 500;

/// How weights are said to the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// In the clear.
    Plain,
    /// By a hash that this validator reveals.
    Hash,
    /// Sealed for a round of the beacon.
    Timelocked,
}

/// How far weights have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The weights, or the commit to them, are signed and not final.
    Sending,
    /// The commit is final; what it says is not on the chain yet.
    Committed,
    /// The reveal is signed and not final.
    Revealing,
    /// The chain has them.
    Done,
    /// The chain will never have them.
    Failed,
}

/// What is stored before anything is sent.
#[derive(Debug, Clone)]
pub(crate) struct NewSubmission {
    pub(crate) decided_at: UnixMillis,
    pub(crate) genesis: [u8; 32],
    pub(crate) way: Way,
    pub(crate) weights: Vec<(Uid, u16)>,
    pub(crate) version_key: u64,
    /// What the hash is salted with; empty otherwise.
    pub(crate) salt: Vec<u16>,
    pub(crate) extrinsic: Signed,
    /// When the chain opens sealed weights.
    pub(crate) opens: Option<Opening>,
}

/// A signed extrinsic as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signed {
    pub(crate) bytes: Vec<u8>,
    pub(crate) birth: BlockNumber,
    pub(crate) last: BlockNumber,
}

/// When sealed weights are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opening {
    pub(crate) block: BlockNumber,
    pub(crate) round: u64,
}

/// Weights on their way.
#[derive(Debug, Clone)]
pub(crate) struct Submission {
    pub(crate) id: i64,
    pub(crate) said: NewSubmission,
    pub(crate) step: Step,
    /// The block with the weights or the commit.
    pub(crate) said_block: Option<BlockNumber>,
    /// The subnet's epoch of a commit.
    pub(crate) epoch: Option<u64>,
    /// The block in which it was decided for good.
    pub(crate) ended_block: Option<BlockNumber>,
    pub(crate) note: String,
}

impl Way {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Hash => "hash",
            Self::Timelocked => "timelocked",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Plain, Self::Hash, Self::Timelocked].into_iter().find(|way| way.as_str() == text)
    }
}

impl Step {
    const ALL: [Self; 5] =
        [Self::Sending, Self::Committed, Self::Revealing, Self::Done, Self::Failed];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Sending => "sending",
            Self::Committed => "committed",
            Self::Revealing => "revealing",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.as_str() == text)
    }
}

// === impl Store ===

impl Store {
    /// Remembers weights with their signed extrinsic, before it is sent.
    pub(crate) async fn begin_submission(
        &self,
        new: NewSubmission,
    ) -> Result<Submission, StoreError> {
        let act = "remember weights before they are sent";
        let mut tx = self.pool.begin().await.map_err(failed(act))?;
        let done = sqlx::query(
            "INSERT INTO weight_submissions (decided_at_unix_ms, genesis, way, weights, \
             version_key, salt, step, is_open, extrinsic, birth_block, last_block, reveal_block, \
             reveal_round, note) VALUES (?, ?, ?, ?, ?, ?, 'sending', 1, ?, ?, ?, ?, ?, '')",
        )
        .bind(stored(new.decided_at.get()))
        .bind(new.genesis.as_slice())
        .bind(new.way.as_str())
        .bind(text_of_weights(&new.weights)?)
        .bind(new.version_key.to_string())
        .bind(serde_json::to_string(&new.salt).map_err(|_| damaged("salt"))?)
        .bind(new.extrinsic.bytes.as_slice())
        .bind(stored(new.extrinsic.birth.get()))
        .bind(stored(new.extrinsic.last.get()))
        .bind(new.opens.map(|opens| stored(opens.block.get())))
        .bind(new.opens.map(|opens| stored(opens.round)))
        .execute(&mut *tx)
        .await
        .map_err(failed(act))?;
        sqlx::query(
            "DELETE FROM weight_submissions WHERE is_open = 0 AND id <= \
             (SELECT max(id) FROM weight_submissions) - ?",
        )
        .bind(SUBMISSIONS_KEPT_MAX)
        .execute(&mut *tx)
        .await
        .map_err(failed(act))?;
        tx.commit().await.map_err(failed(act))?;
        Ok(Submission {
            id: done.last_insert_rowid(),
            said: new,
            step: Step::Sending,
            said_block: None,
            epoch: None,
            ended_block: None,
            note: String::new(),
        })
    }

    /// The weights whose next step waits for nobody but this validator.
    pub(crate) async fn open_submission(&self) -> Result<Option<Submission>, StoreError> {
        self.one_submission("SELECT * FROM weight_submissions WHERE is_open = 1").await
    }

    /// The newest weights, whatever became of them.
    pub(crate) async fn last_submission(&self) -> Result<Option<Submission>, StoreError> {
        self.one_submission("SELECT * FROM weight_submissions ORDER BY id DESC LIMIT 1").await
    }

    /// The newest weights that the chain took, in the clear or as a commit, unless it has thrown them away since.
    pub(crate) async fn last_said(&self) -> Result<Option<Submission>, StoreError> {
        self.one_submission(
            "SELECT * FROM weight_submissions WHERE said_block IS NOT NULL AND step != 'failed' \
             ORDER BY id DESC LIMIT 1",
        )
        .await
    }

    /// How many of the newest weights failed one after the other.
    pub(crate) async fn failures_in_a_row(&self) -> Result<u64, StoreError> {
        let row = sqlx::query(
            "SELECT count(*) AS failures FROM weight_submissions WHERE id > (SELECT \
             coalesce(max(id), 0) FROM weight_submissions WHERE step != 'failed')",
        )
        .fetch_one(&self.pool)
        .await
        .map_err(failed("count the weights that failed"))?;
        number_of(&row, "failures")
    }

    /// Commits that are final and not opened or revealed yet, as far as is known, the oldest first.
    pub(crate) async fn commits(&self, way: Way) -> Result<Vec<Submission>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM weight_submissions WHERE step = 'committed' AND way = ? ORDER BY id",
        )
        .bind(way.as_str())
        .fetch_all(&self.pool)
        .await
        .map_err(failed("read the commits"))?;
        rows.iter().map(submission).collect()
    }

    /// The weights, or the commit to them, are final in that block. A commit is no weights yet.
    pub(crate) async fn submission_said(
        &self,
        it: &Submission,
        block: BlockNumber,
        (epoch, at): (Option<u64>, UnixMillis),
    ) -> Result<(), StoreError> {
        let act = "remember that weights were said";
        let step = match it.said.way {
            Way::Plain => Step::Done,
            Way::Timelocked | Way::Hash => Step::Committed,
        };
        let ended = (step == Step::Done).then_some(stored(block.get()));
        let mut tx = self.pool.begin().await.map_err(failed(act))?;
        let done = sqlx::query(
            "UPDATE weight_submissions SET step = ?, is_open = 0, said_block = ?, epoch = ?, \
             ended_block = ?, note = '' WHERE id = ?",
        )
        .bind(step.as_str())
        .bind(stored(block.get()))
        .bind(epoch.map(stored))
        .bind(ended)
        .bind(it.id)
        .execute(&mut *tx)
        .await
        .map_err(failed(act))?;
        one_row(&done, act)?;
        if step == Step::Done {
            let set = WeightSet { at, block, weights: it.said.weights.clone() };
            Self::insert_weight_set(&mut tx, &set).await?;
        }
        tx.commit().await.map_err(failed(act))
    }

    /// What was committed stands on the chain as weights, seen there in that block.
    pub(crate) async fn commit_done(
        &self,
        it: &Submission,
        (block, at): (BlockNumber, UnixMillis),
        note: &str,
    ) -> Result<(), StoreError> {
        let act = "remember that a commit became weights";
        let mut tx = self.pool.begin().await.map_err(failed(act))?;
        let done = sqlx::query(
            "UPDATE weight_submissions SET step = 'done', is_open = 0, ended_block = ?, note = ? \
             WHERE id = ?",
        )
        .bind(stored(block.get()))
        .bind(note)
        .bind(it.id)
        .execute(&mut *tx)
        .await
        .map_err(failed(act))?;
        one_row(&done, act)?;
        let set = WeightSet { at, block, weights: it.said.weights.clone() };
        Self::insert_weight_set(&mut tx, &set).await?;
        tx.commit().await.map_err(failed(act))
    }

    /// Remembers the reveal of a hash, before it is sent.
    pub(crate) async fn begin_reveal(&self, id: i64, signed: &Signed) -> Result<(), StoreError> {
        let act = "remember a reveal before it is sent";
        let done = sqlx::query(
            "UPDATE weight_submissions SET step = 'revealing', is_open = 1, extrinsic = ?, \
             birth_block = ?, last_block = ? WHERE id = ? AND step = 'committed'",
        )
        .bind(signed.bytes.as_slice())
        .bind(stored(signed.birth.get()))
        .bind(stored(signed.last.get()))
        .bind(id)
        .execute(&self.pool)
        .await
        .map_err(failed(act))?;
        one_row(&done, act)
    }

    /// The reveal can never get onto the chain any more: another may be signed while its epoch lasts.
    pub(crate) async fn reveal_again(&self, id: i64, note: &str) -> Result<(), StoreError> {
        let act = "remember that a reveal must come again";
        let done = sqlx::query(
            "UPDATE weight_submissions SET step = 'committed', is_open = 0, note = ? \
             WHERE id = ? AND step = 'revealing'",
        )
        .bind(cut(note))
        .bind(id)
        .execute(&self.pool)
        .await
        .map_err(failed(act))?;
        one_row(&done, act)
    }

    /// The chain will never have these weights, or has thrown them away.
    pub(crate) async fn submission_failed(
        &self,
        id: i64,
        (block, note): (BlockNumber, &str),
    ) -> Result<(), StoreError> {
        let act = "remember that weights failed";
        let done = sqlx::query(
            "UPDATE weight_submissions SET step = 'failed', is_open = 0, ended_block = ?, \
             note = ? WHERE id = ?",
        )
        .bind(stored(block.get()))
        .bind(cut(note))
        .bind(id)
        .execute(&self.pool)
        .await
        .map_err(failed(act))?;
        one_row(&done, act)
    }

    /// What holds the weights up just now.
    pub(crate) async fn note_submission(&self, id: i64, note: &str) -> Result<(), StoreError> {
        sqlx::query("UPDATE weight_submissions SET note = ? WHERE id = ?")
            .bind(cut(note))
            .bind(id)
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(failed("remember what holds weights up"))
    }

    async fn one_submission(&self, query: &'static str) -> Result<Option<Submission>, StoreError> {
        let row = sqlx::query(query).fetch_optional(&self.pool).await;
        let row = row.map_err(failed("read the weights on their way"))?;
        row.as_ref().map(submission).transpose()
    }
}

// === rows ===

fn cut(note: &str) -> String {
    note.chars().take(NOTE_CHARS_MAX).collect()
}

/// A step that no row took must not be followed by what it was to be remembered for.
fn one_row(done: &SqliteQueryResult, act: &'static str) -> Result<(), StoreError> {
    if done.rows_affected() == 1 { Ok(()) } else { Err(failed(act)(sqlx::Error::RowNotFound)) }
}

fn submission(row: &SqliteRow) -> Result<Submission, StoreError> {
    let pairs: Vec<(u16, u16)> =
        serde_json::from_str(&text_of(row, "weights")?).map_err(|_| damaged("weights"))?;
    let opens = match (maybe(row, "reveal_block")?, maybe(row, "reveal_round")?) {
        (Some(block), Some(round)) => Some(Opening { block: BlockNumber(block), round }),
        (_, _) => None,
    };
    let extrinsic = Signed {
        bytes: row.try_get("extrinsic").map_err(|_| damaged("extrinsic"))?,
        birth: BlockNumber(number_of(row, "birth_block")?),
        last: BlockNumber(number_of(row, "last_block")?),
    };
    let said = NewSubmission {
        decided_at: UnixMillis(number_of(row, "decided_at_unix_ms")?),
        genesis: bytes_of(row, "genesis")?,
        way: Way::parse(&text_of(row, "way")?).ok_or_else(|| damaged("way"))?,
        weights: pairs.into_iter().map(|(uid, weight)| (Uid(uid), weight)).collect(),
        version_key: text_of(row, "version_key")?.parse().map_err(|_| damaged("version key"))?,
        salt: serde_json::from_str(&text_of(row, "salt")?).map_err(|_| damaged("salt"))?,
        extrinsic,
        opens,
    };
    Ok(Submission {
        id: row.try_get("id").map_err(|_| damaged("id"))?,
        said,
        step: Step::parse(&text_of(row, "step")?).ok_or_else(|| damaged("step"))?,
        said_block: maybe(row, "said_block")?.map(BlockNumber),
        epoch: maybe(row, "epoch")?,
        ended_block: maybe(row, "ended_block")?.map(BlockNumber),
        note: text_of(row, "note")?,
    })
}

fn maybe(row: &SqliteRow, column: &'static str) -> Result<Option<u64>, StoreError> {
    let number: Option<i64> = row.try_get(column).map_err(|_| damaged(column))?;
    number.map(|number| u64::try_from(number).map_err(|_| damaged(column))).transpose()
}

fn text_of_weights(weights: &[(Uid, u16)]) -> Result<String, StoreError> {
    let pairs: Vec<(u16, u16)> = weights.iter().map(|(uid, weight)| (uid.0, *weight)).collect();
    serde_json::to_string(&pairs).map_err(|_| damaged("weights"))
}

#[cfg(test)]
mod tests {
    use nicompute_market::{Hotkey, Netuid};

    use super::*;
    use crate::store::DirLock;

    async fn store(dir: &std::path::Path) -> Store {
        let lock = DirLock::take(dir).unwrap();
        Store::open(dir, lock, &Hotkey::from_bytes([1; 32]), Netuid(27)).await.unwrap()
    }

    fn new(way: Way, weight: u16) -> NewSubmission {
        NewSubmission {
            decided_at: UnixMillis(7),
            genesis: [2; 32],
            way,
            weights: vec![(Uid(1), weight), (Uid(9), u16::MAX)],
            version_key: u64::MAX,
            salt: vec![0, u16::MAX],
            extrinsic: Signed {
                bytes: vec![1, 2, 3],
                birth: BlockNumber(4),
                last: BlockNumber(19),
            },
            opens: Some(Opening { block: BlockNumber(30), round: 1 << 40 }),
        }
    }

    /// What is read back must be what was stored, or a restarted validator reveals other weights than it committed to.
    #[tokio::test]
    async fn submissions_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let opened = store(dir.path()).await;
        let begun = opened.begin_submission(new(Way::Hash, 3)).await.unwrap();
        opened.submission_said(&begun, BlockNumber(8), (Some(5), UnixMillis(9))).await.unwrap();
        opened.close().await;
        drop(opened);
        let opened = store(dir.path()).await;
        assert!(opened.open_submission().await.unwrap().is_none(), "a commit keeps nobody waiting");
        let read = opened.commits(Way::Hash).await.unwrap().remove(0);
        assert_eq!((read.id, read.step, read.epoch), (begun.id, Step::Committed, Some(5)));
        assert_eq!(read.said_block, Some(BlockNumber(8)));
        let (a, b) = (&read.said, &begun.said);
        assert_eq!((a.way, &a.weights, &a.salt), (b.way, &b.weights, &b.salt));
        assert_eq!((a.version_key, &a.extrinsic, a.opens), (u64::MAX, &b.extrinsic, b.opens));
        assert!(opened.last_weight_set().await.unwrap().is_none(), "nobody may read a commit");
        let reveal = Signed { bytes: vec![9], birth: BlockNumber(20), last: BlockNumber(35) };
        opened.begin_reveal(read.id, &reveal).await.unwrap();
        assert!(opened.begin_reveal(read.id, &reveal).await.is_err(), "it is under way");
        let read = opened.open_submission().await.unwrap().unwrap();
        assert_eq!((read.step, &read.said.extrinsic), (Step::Revealing, &reveal));
        opened.reveal_again(read.id, "expired").await.unwrap();
        assert!(opened.reveal_again(read.id, "expired").await.is_err(), "no reveal is under way");
        assert!(opened.open_submission().await.unwrap().is_none());
        assert_eq!(opened.last_said().await.unwrap().unwrap().step, Step::Committed);
        opened.begin_reveal(read.id, &reveal).await.unwrap();
        opened.commit_done(&read, (BlockNumber(40), UnixMillis(9)), "revealed").await.unwrap();
        assert!(opened.open_submission().await.unwrap().is_none());
        let set = opened.last_weight_set().await.unwrap().unwrap();
        assert_eq!((set.block, set.weights), (BlockNumber(40), b.weights.clone()));
        opened.close().await;
    }

    /// Weights that failed must not count as said, and many failures in a row must be known as such.
    #[tokio::test]
    async fn failed_weights_are_not_said() {
        let dir = tempfile::tempdir().unwrap();
        let opened = store(dir.path()).await;
        assert_eq!(opened.failures_in_a_row().await.unwrap(), 0);
        for failures in 1..=3 {
            let it = opened.begin_submission(new(Way::Timelocked, 1)).await.unwrap();
            opened.submission_said(&it, BlockNumber(8), (None, UnixMillis(9))).await.unwrap();
            assert_eq!(opened.last_said().await.unwrap().unwrap().id, it.id);
            assert_eq!(opened.failures_in_a_row().await.unwrap(), 0);
            let end = (BlockNumber(9), "thrown away");
            opened.submission_failed(it.id, end).await.unwrap();
            assert!(opened.last_said().await.unwrap().is_none());
            let other = opened.begin_submission(new(Way::Plain, failures)).await.unwrap();
            opened.submission_failed(other.id, end).await.unwrap();
            assert_eq!(opened.failures_in_a_row().await.unwrap(), 2 * u64::from(failures));
        }
        assert!(opened.submission_failed(99, (BlockNumber(9), "no such row")).await.is_err());
        opened.close().await;
    }

    /// An operator who upgrades must lose neither evidence nor the salt of a commit, and a commit from before must not keep
    /// the next weights waiting for ever.
    #[tokio::test]
    async fn a_store_of_an_older_version_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let migrator = sqlx::migrate!("./migrations");
        let file = dir.path().join(super::super::FILE);
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
        let pool = sqlx::SqlitePool::connect_with(options.create_if_missing(true)).await.unwrap();
        let up_to = async |last: i64| {
            let mut conn = pool.acquire().await.unwrap();
            let older = sqlx::migrate::Migrator {
                migrations: migrator.iter().filter(|it| it.version <= last).cloned().collect(),
                ..sqlx::migrate::Migrator::DEFAULT
            };
            older.run(&mut *conn).await.unwrap();
        };
        let run = async |query: &'static str| {
            sqlx::query(query).execute(&pool).await.unwrap();
        };
        up_to(4).await;
        run("INSERT INTO owner (one, hotkey, netuid) VALUES (1, \
             x'0101010101010101010101010101010101010101010101010101010101010101', 27)")
        .await;
        run("INSERT INTO weight_sets (at_unix_ms, block, weights) VALUES (5, 6, '[[1,65535]]')")
            .await;
        up_to(5).await;
        run("INSERT INTO weight_submissions (decided_at_unix_ms, genesis, way, weights, \
             version_key, salt, step, is_open, extrinsic, birth_block, last_block, said_block, \
             epoch, note) VALUES (7, zeroblob(32), 'hash', '[[1,2]]', '3', '[4,5]', 'committed', \
             1, x'06', 1, 16, 9, 2, '')")
        .await;
        pool.close().await;
        let opened = store(dir.path()).await;
        assert_eq!(opened.last_weight_set().await.unwrap().unwrap().block, BlockNumber(6));
        assert!(opened.open_submission().await.unwrap().is_none());
        let commits = opened.commits(Way::Hash).await.unwrap();
        assert_eq!((commits[0].said.salt.as_slice(), commits[0].epoch), (&[4, 5][..], Some(2)));
        opened.begin_submission(new(Way::Hash, 1)).await.unwrap();
        opened.close().await;
    }

    /// Two signed extrinsics with weights at once could both get onto the chain.
    #[tokio::test]
    async fn only_one_submission_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let opened = store(dir.path()).await;
        let first = opened.begin_submission(new(Way::Plain, 1)).await.unwrap();
        assert!(opened.begin_submission(new(Way::Plain, 2)).await.is_err());
        opened.submission_failed(first.id, (BlockNumber(5), "because")).await.unwrap();
        let sealed = opened.begin_submission(new(Way::Timelocked, 2)).await.unwrap();
        opened.submission_said(&sealed, BlockNumber(6), (None, UnixMillis(1))).await.unwrap();
        assert_eq!(opened.commits(Way::Timelocked).await.unwrap().len(), 1);
        // What the chain opens by itself keeps nobody waiting.
        opened.begin_submission(new(Way::Plain, 3)).await.unwrap();
        opened.close().await;
    }

    /// A validator that runs for years must not fill its disk, nor may a node's words.
    #[tokio::test]
    async fn old_submissions_and_long_notes_are_cut() {
        let dir = tempfile::tempdir().unwrap();
        let opened = store(dir.path()).await;
        let note = "n".repeat(NOTE_CHARS_MAX + 1);
        for weight in 0..1_003 {
            let begun = opened.begin_submission(new(Way::Plain, weight)).await.unwrap();
            let end = (BlockNumber(1), note.as_str());
            opened.submission_failed(begun.id, end).await.unwrap();
        }
        let row = sqlx::query("SELECT count(*) AS kept, min(id) AS oldest FROM weight_submissions");
        let row = row.fetch_one(&opened.pool).await.unwrap();
        assert_eq!(number_of(&row, "kept").unwrap(), 1_000);
        assert_eq!(number_of(&row, "oldest").unwrap(), 4);
        let last = opened.last_submission().await.unwrap().unwrap();
        assert_eq!((last.note.len(), last.ended_block), (NOTE_CHARS_MAX, Some(BlockNumber(1))));
        opened.close().await;
    }
}
