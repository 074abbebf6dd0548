//! Ranks meet, and those that do not belong are kept out.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::super::CommError;
use super::frame::{MAX_FRAME, MAX_TOLD, REFUSED, read_frame, write_frame};
use super::*;

const SOON: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(20);

fn server(size: u32) -> Server {
    Server::start("127.0.0.1:0", "secret", (None, size)).expect("a free port")
}

fn meeting(server: &Server, token: &str) -> Meeting {
    Meeting { address: server.address().to_string(), token: token.to_owned() }
}

fn refusal<T: std::fmt::Debug>(result: Result<T, CommError>) -> String {
    result.expect_err("refused").to_string()
}

#[test]
fn ranks_give_and_get_each_others_values() {
    let server = server(3);
    std::thread::scope(|scope| {
        for rank in 0..3u32 {
            let meeting = meeting(&server, "secret");
            scope.spawn(move || {
                let mut client = Client::join(&meeting, (rank, 3), LONG).expect("let in");
                let values = client.gather("id", &[rank as u8 + 10], LONG).expect("all come");
                assert_eq!(values, [[10], [11], [12]]);
                if rank == 1 {
                    client.set("unique", b"word").expect("set");
                }
                let word = client.get("unique", LONG).expect("asked");
                assert_eq!(word.as_deref(), Some(&b"word"[..]));
            });
        }
    });
}

#[test]
fn who_does_not_belong_is_kept_out_with_a_reason() {
    let server = server(2);
    let right = meeting(&server, "secret");
    let wrong = Client::join(&meeting(&server, "guess"), (0, 2), LONG);
    assert!(refusal(wrong).contains("the token is not that of this job"));
    let large = refusal(Client::join(&right, (2, 4), LONG));
    assert!(large.contains("rank 2 of 4 does not fit a job of 2 ranks"), "{large}");
    let first = Client::join(&right, (1, 2), LONG).expect("let in");
    assert!(refusal(Client::join(&right, (1, 2), LONG)).contains("rank 1 is here already"));
    assert_eq!(server.here(), [1]);
    drop(first);
    let begin = Instant::now();
    while !server.here().is_empty() && begin.elapsed() < LONG {
        std::thread::sleep(Duration::from_millis(10));
    }
    Client::join(&right, (1, 2), LONG).expect("the first one has gone");
}

#[test]
fn a_rank_that_does_not_come_is_named() {
    let server = server(3);
    let meeting = meeting(&server, "secret");
    let mut first = Client::join(&meeting, (0, 3), LONG).expect("let in");
    let mut last = Client::join(&meeting, (2, 3), LONG).expect("let in");
    last.set("here/2", &[]).expect("set");
    let missing = refusal(first.gather("here", &[], SOON));
    assert!(missing.contains("has not seen rank 1 in 0.2 s"), "{missing}");
}

#[test]
fn a_rendezvous_that_is_not_there_is_given_up_in_time() {
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("it has an address").to_string()
    };
    let begin = Instant::now();
    let meeting = Meeting { address, token: "t".to_owned() };
    let refused = refusal(Client::join(&meeting, (0, 2), SOON));
    assert!(refused.contains("is not reached in 0.2 s"), "{refused}");
    assert!(begin.elapsed() < LONG);
}

#[test]
fn frames_that_make_no_sense_end_the_connection_and_nothing_else() {
    let server = server(1);
    let mut stream = TcpStream::connect(server.address()).expect("connected");
    stream.write_all(&u32::MAX.to_le_bytes()).expect("written");
    assert!(read_frame(&mut stream).is_err(), "closed");
    let mut stream = TcpStream::connect(server.address()).expect("connected");
    write_frame(&mut stream, b"GET / HTTP/1.1").expect("written");
    assert_eq!(read_frame(&mut stream).expect("an answer")[0], REFUSED);
    let mut client = Client::join(&meeting(&server, "secret"), (0, 1), LONG).expect("let in");
    for request in
        [&b""[..], b"B", b"L", b"S", b"S\xff\xff\xff\xffkey", b"X\0\0\0\0", &[b'B'; MAX_TOLD + 6]]
    {
        assert_eq!(client.ask(request, LONG).expect("an answer").0, REFUSED, "{request:?}");
    }
    client.set("key", &[1; 9]).expect("the connection goes on");
    assert!(client.set("large", &vec![0; MAX_FRAME]).is_err());
}

#[test]
fn ranks_hear_where_the_others_stand_and_when_one_has_gone() {
    let server = server(3);
    let meeting = meeting(&server, "secret");
    let join = |rank| Client::join(&meeting, (rank, 3), LONG).expect("let in");
    let (mut first, mut second) = (join(0), join(1));
    assert_eq!(first.host(), None);
    let before = first.beat(false, b"here").expect("a count");
    assert_eq!(second.beat(false, b"there").expect("a count"), before, "beats are no news");
    let seen = first.look().expect("an answer");
    let told: Vec<(u32, bool, &[u8])> =
        seen.iter().map(|heard| (heard.rank, heard.here, heard.told.as_slice())).collect();
    assert_eq!(told, [(0, true, &b"here"[..]), (1, true, b"there")], "rank 2 has not come");
    let urgent = second.beat(true, b"gave up").expect("a count");
    assert!(urgent > before);
    drop(second);
    let begin = Instant::now();
    while first.beat(false, b"here").expect("a count") == urgent {
        assert!(begin.elapsed() < LONG, "an end is news");
    }
    let gone = first.look().expect("an answer").remove(1);
    assert_eq!((gone.here, gone.told.as_slice()), (false, &b"gave up"[..]));
}

#[test]
fn more_than_a_frame_is_looked_at_in_parts() {
    let size = 40;
    let server = server(size);
    let meeting = meeting(&server, "secret");
    let mut all: Vec<Client> =
        (0..size).map(|rank| Client::join(&meeting, (rank, size), LONG).expect("let in")).collect();
    for client in &mut all {
        client.beat(false, &[7; MAX_TOLD]).expect("a count");
    }
    let ranks: Vec<u32> =
        all[3].look().expect("an answer").iter().map(|heard| heard.rank).collect();
    assert_eq!(ranks, (0..size).collect::<Vec<u32>>());
    assert!(ranks.len() * MAX_TOLD > MAX_FRAME);
}

#[test]
fn of_several_addresses_the_one_that_answers_is_taken() {
    let server = server(1);
    let stranger = Server::start("127.0.0.1:0", "other", (None, 1)).expect("a free port");
    let address = format!("127.0.0.1:1,{},{}", stranger.address(), server.address());
    let meeting = Meeting { address, token: "secret".to_owned() };
    Client::join(&meeting, (0, 1), LONG).expect("let in by one of them");
}
