//! The attributes write code beside a function, in which its program's own names are visible. Whatever those are, it
//! compiles.

extern crate wfhost_sdk as wfhost;

use futures::FutureExt as _;

/// Functions of a module with these names, each of which is a workflow of its own.
macro_rules! workflows {
    ($($name:ident)*) => {
        $(mod $name {
            /// A type with the name of the function's part.
            #[derive(serde::Deserialize)]
            pub struct Workflow;

            #[wfhost::workflow]
            pub async fn $name(_: Workflow) -> wfhost::Result<u8> {
                Ok(7)
            }
        })*
    };
}

workflows!(input checked call run read workflow);

mod without_input {
    #[wfhost::workflow]
    pub async fn input() -> wfhost::Result<u8> {
        Ok(7)
    }
}

#[cfg(feature = "plugin")]
mod agents {
    macro_rules! agents {
        ($($name:ident)*) => {
            $(mod $name {
                use wfhost::plugin::Call as Agent;

                #[wfhost::agent]
                pub fn $name(_: Agent) -> wfhost::plugin::Result<String> {
                    Ok(String::new())
                }
            })*
        };
    }

    agents!(call checked run agent);
}

#[test]
fn functions_may_have_any_name() {
    let results = [
        input::input(input::Workflow).now_or_never(),
        checked::checked(checked::Workflow).now_or_never(),
        without_input::input().now_or_never(),
    ];
    assert!(results.into_iter().all(|result| matches!(result, Some(Ok(7)))));
}
