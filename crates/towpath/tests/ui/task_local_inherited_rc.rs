use std::rc::Rc;

towpath::task_local! {
    inherit static SHARED: Rc<u32> = Rc::new(1);
}

fn main() {
    SHARED.with(|shared| assert_eq!(**shared, 1));
}
