//! What tests of this room and of those above it need again and again.
//!
//! # Safety
//! Books are opened where they stay: in a box that is handed out whole.

use super::{Simulated, System};
use crate::stats::account::all_purposes;
use crate::stats::{Account, BookShard, Books, Figures};

/// Open books.
pub(crate) fn books() -> Box<Books> {
    let books = Box::new(Books::new());
    // SAFETY: opened once; what a box holds does not move.
    unsafe { books.open() };
    books
}

/// A shard for a ledger that may be held across locks and system calls, as a mutator's is.
pub(crate) fn shard(books: &Books) -> &'static BookShard {
    let shard: &'static BookShard = Box::leak(Box::default());
    // SAFETY: fresh, and leaked, so it outlives the books.
    unsafe { books.link(shard) };
    shard
}

/// A reading of the books, whose sum is zero and in which nobody but the system owes anything.
pub(crate) fn read(books: &Books) -> Box<Figures> {
    let mut figures = Box::new(Figures::zero());
    books.read(&mut figures);
    let accounts = Account::fixed().chain(all_purposes().map(Account::Span));
    let balances: Vec<_> = accounts.map(|account| (account, figures.balance(account))).collect();
    assert_eq!(balances.iter().map(|(_, balance)| balance).sum::<i64>(), 0, "the books do not add up");
    for (account, balance) in balances {
        assert!(balance >= 0 || account == Account::System, "{account:?}: {balance}");
    }
    figures
}

/// One account's balance, after a look at all of them.
pub(crate) fn balance(books: &Books, account: Account) -> i64 {
    read(books).balance(account)
}

/// The balances of all accounts that do not depend on a purpose, to compare before and after.
pub(crate) fn fixed_balances(books: &Books) -> Vec<i64> {
    let figures = read(books);
    Account::fixed().map(|account| figures.balance(account)).collect()
}

/// A simulated system of the test's own.
pub(crate) fn simulated() -> (&'static Simulated, System) {
    let simulated: &'static Simulated = Box::leak(Box::new(Simulated::new()));
    (simulated, System::Simulated(simulated))
}
