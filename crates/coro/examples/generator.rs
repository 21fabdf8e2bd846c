//! A generator: an iterator written as a loop that hands out values from wherever it stands, here inside a recursion.

use std::io;

use towpath_coro::{Coroutine, Stack, State, Yielder};

/// An iterator over what a coroutine yields.
struct Generator<T>(Option<Coroutine<(), T, ()>>);

impl<T: 'static> Generator<T> {
    fn new(f: impl FnOnce(&Yielder<(), T>) + 'static) -> io::Result<Generator<T>> {
        let stack = Stack::new(64 * 1024)?;
        Ok(Generator(Some(Coroutine::new(stack, |yielder, ()| f(yielder)))))
    }
}

impl<T> Iterator for Generator<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        match self.0.as_mut()?.resume(()) {
            State::Suspended(value) => Some(value),
            State::Finished(result) => {
                self.0 = None;
                result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                None
            }
        }
    }
}

impl<T> Drop for Generator<T> {
    fn drop(&mut self) {
        // Dropping a suspended coroutine would leak it. This one's code is ours and may be unwound.
        if let Some(unfinished) = self.0.take() {
            unfinished.unwind();
        }
    }
}

struct Tree {
    value: u32,
    children: Vec<Tree>,
}

/// Visits in depth-first order: plain recursion, no stack of iterators.
fn visit(tree: &Tree, yielder: &Yielder<(), u32>) {
    yielder.suspend(tree.value);
    for child in &tree.children {
        visit(child, yielder);
    }
}

fn main() -> io::Result<()> {
    let leaf = |value| Tree { value, children: Vec::new() };
    let tree =
        Tree { value: 1, children: vec![Tree { value: 2, children: vec![leaf(3), leaf(4)] }, leaf(5)] };

    let values: Vec<u32> = Generator::new(move |yielder| visit(&tree, yielder))?.collect();
    println!("tree: {values:?}");
    assert_eq!(values, [1, 2, 3, 4, 5]);

    let fibonacci = Generator::new(|yielder| {
        let (mut a, mut b) = (0_u64, 1);
        loop {
            yielder.suspend(a);
            (a, b) = (b, a + b);
        }
    })?;
    let even: Vec<u64> = fibonacci.filter(|n| n % 2 == 0).take(5).collect();
    println!("even Fibonacci numbers: {even:?}");
    assert_eq!(even, [0, 2, 8, 34, 144]);
    Ok(())
}
