//! A trip is booked and paid. If a booking or the payment fails, or if somebody
//! cancels the run, what was booked until then is cancelled, the latest first.

use futures::try_join;
use serde::{Deserialize, Serialize};
use wfhost::{Result, agent, info, json, phase, saga};

#[derive(Deserialize)]
struct Input {
    traveller: String,
    to: String,
}

/// What an agency answers.
#[derive(Deserialize, Serialize, Clone)]
struct Booking {
    reference: String,
    /// In euros.
    price: u32,
}

#[derive(Serialize)]
struct Trip {
    flight: Booking,
    hotel: Booking,
    receipt: String,
}

#[wfhost::workflow]
async fn trip(input: Input) -> Result<Trip> {
    saga(async |saga| {
        phase("book");
        let (flight, hotel) = try_join!(
            saga.step("flight", book("flight", &input), cancel),
            saga.step("hotel", book("hotel", &input), cancel),
        )?;

        phase("pay");
        let price = flight.price + hotel.price;
        // A payment can have been made although nobody heard of it: paying back is announced before.
        let traveller = input.traveller.clone();
        saga.undo("payment", async move || {
            agent(format!("pay back to {traveller} what was paid for the trip"))
                .label("pay back")
                .text()
                .await
        });
        let receipt = agent(format!("charge {} with {price} euros", input.traveller))
            .label("payment")
            .once()
            .text()
            .await?;
        info!("{} travels to {} for {price} euros", input.traveller, input.to);
        Ok(Trip { flight, hotel, receipt })
    })
    .await
}

async fn book(what: &str, input: &Input) -> Result<Booking> {
    agent(format!("book a {what}"))
        .input(json!({ "traveller": input.traveller, "to": input.to }))
        .label(what)
        .json()
        .await
}

async fn cancel(booking: &Booking) -> Result<()> {
    agent(format!("cancel booking {}", booking.reference))
        .label(format!("cancel {}", booking.reference))
        .text()
        .await?;
    Ok(())
}
