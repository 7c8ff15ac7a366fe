//! What the interpreter can do by itself.

use crate::machine::Fault;
use crate::value::{Context, Ref, Value, number, pair, parts, show, text, truth};
use spanheap::Gc;

/// A function of the interpreter's.
pub(crate) struct Builtin {
    pub(crate) name: &'static str,
    /// How many arguments it takes; `None`: any number.
    arity: Option<usize>,
    work: for<'g> fn(&Context<'g, '_>, &[Ref<'g>], &mut String) -> Result<Ref<'g>, Fault>,
}

/// All of them.
#[rustfmt::skip]
pub(crate) const BUILTINS: &[Builtin] = &[
    Builtin { name: "+", arity: None, work: |cx, all, _| fold(cx, all, 0, i64::checked_add) },
    Builtin { name: "*", arity: None, work: |cx, all, _| fold(cx, all, 1, i64::checked_mul) },
    Builtin { name: "-", arity: Some(2), work: |cx, all, _| two(cx, all, i64::checked_sub) },
    Builtin { name: "quotient", arity: Some(2), work: |cx, all, _| two(cx, all, i64::checked_div) },
    Builtin { name: "remainder", arity: Some(2), work: |cx, all, _| two(cx, all, i64::checked_rem) },
    Builtin { name: "<", arity: Some(2), work: |cx, all, _| Ok(truth(cx, integer(cx, all[0])? < integer(cx, all[1])?)?) },
    Builtin { name: "=", arity: Some(2), work: |cx, all, _| Ok(truth(cx, integer(cx, all[0])? == integer(cx, all[1])?)?) },
    Builtin { name: "eq?", arity: Some(2), work: |cx, all, _| Ok(truth(cx, same(all[0], all[1]))?) },
    Builtin { name: "not", arity: Some(1), work: |cx, all, _| Ok(truth(cx, matches!(all[0].get(), Value::Truth(false)))?) },
    Builtin { name: "null?", arity: Some(1), work: |cx, all, _| Ok(truth(cx, matches!(all[0].get(), Value::Nil))?) },
    Builtin { name: "pair?", arity: Some(1), work: |cx, all, _| Ok(truth(cx, matches!(all[0].get(), Value::Pair { .. }))?) },
    Builtin { name: "cons", arity: Some(2), work: |cx, all, _| Ok(pair(cx, all[0], all[1])?) },
    Builtin { name: "car", arity: Some(1), work: |cx, all, _| Ok(halves(cx, all[0])?.0) },
    Builtin { name: "cdr", arity: Some(1), work: |cx, all, _| Ok(halves(cx, all[0])?.1) },
    Builtin { name: "list", arity: None, work: |cx, all, _| Ok(crate::value::list(cx, all)?) },
    Builtin { name: "string-append", arity: None, work: append },
    Builtin { name: "string-length", arity: Some(1), work: |cx, all, _| Ok(number(cx, string(cx, all[0])?.chars().count() as i64)?) },
    Builtin { name: "number->string", arity: Some(1), work: |cx, all, _| Ok(text(cx, &integer(cx, all[0])?.to_string())?) },
    Builtin { name: "display", arity: Some(1), work: |cx, all, out| { show(cx, all[0], false, out); Ok(all[0]) } },
    Builtin { name: "newline", arity: Some(0), work: |cx, _, out| { out.push('\n'); Ok(cx.allocate(Value::Nil)?) } },
];

/// Calls one.
pub(crate) fn apply<'g>(
    cx: &Context<'g, '_>,
    number: usize,
    all: &[Ref<'g>],
    out: &mut String,
) -> Result<Ref<'g>, Fault> {
    let Builtin { name, arity, work } = &BUILTINS[number];
    if let Some(wanted) = arity.filter(|wanted| *wanted != all.len()) {
        return Err(Fault::new(format!("{name} takes {wanted} arguments, not {}", all.len())));
    }
    work(cx, all, out)
}

fn integer<'g>(cx: &Context<'g, '_>, value: Ref<'g>) -> Result<i64, Fault> {
    match value.get() {
        Value::Number(number) => Ok(*number),
        _ => Err(not("a number", cx, value)),
    }
}

fn string<'g>(cx: &Context<'g, '_>, value: Ref<'g>) -> Result<&'g str, Fault> {
    match value.get() {
        Value::Text(text) => Ok(text.get(cx).map_or("", Gc::text)),
        _ => Err(not("a string", cx, value)),
    }
}

fn halves<'g>(cx: &Context<'g, '_>, value: Ref<'g>) -> Result<(Ref<'g>, Ref<'g>), Fault> {
    parts(cx, value).ok_or_else(|| not("a pair", cx, value))
}

fn not<'g>(what: &str, cx: &Context<'g, '_>, value: Ref<'g>) -> Fault {
    let mut text = String::new();
    show(cx, value, true, &mut text);
    Fault::new(format!("not {what}: {text}"))
}

fn same<'g>(one: Ref<'g>, other: Ref<'g>) -> bool {
    match (one.get(), other.get()) {
        (Value::Number(one), Value::Number(other)) => one == other,
        (Value::Truth(one), Value::Truth(other)) => one == other,
        (Value::Nil, Value::Nil) => true,
        _ => Gc::ptr_eq(one, other),
    }
}

fn fold<'g>(
    cx: &Context<'g, '_>,
    all: &[Ref<'g>],
    first: i64,
    step: fn(i64, i64) -> Option<i64>,
) -> Result<Ref<'g>, Fault> {
    let sum =
        all.iter().try_fold(first, |sum, &value| step(sum, integer(cx, value)?).ok_or_else(overflow))?;
    Ok(number(cx, sum)?)
}

fn two<'g>(
    cx: &Context<'g, '_>,
    all: &[Ref<'g>],
    step: fn(i64, i64) -> Option<i64>,
) -> Result<Ref<'g>, Fault> {
    Ok(number(cx, step(integer(cx, all[0])?, integer(cx, all[1])?).ok_or_else(overflow)?)?)
}

fn overflow() -> Fault {
    Fault::new("a result that is no number of 64 bits")
}

fn append<'g>(cx: &Context<'g, '_>, all: &[Ref<'g>], _out: &mut String) -> Result<Ref<'g>, Fault> {
    let mut whole = String::new();
    for &value in all {
        whole.push_str(string(cx, value)?);
    }
    Ok(text(cx, &whole)?)
}
