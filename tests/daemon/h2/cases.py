"""What RFC 9113 (HTTP/2) and RFC 7541 (HPACK) say a server does with good and bad frames: a row for each.

A row is (section, what is sent, how, what must follow). Sections of RFC 7541 have the prefix "hpack". The connection has exchanged
SETTINGS before, unless the row says otherwise. Where the RFCs leave a choice, the row takes what a careful server does, and says so."""
from wire import (ACK, CANCEL, COMPRESSION_ERROR, CONTINUATION, DATA, EMPTY_MESSAGE, ENABLE_PUSH, END_HEADERS, END_STREAM,
                  FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, GOAWAY, HEADER_TABLE_SIZE, HEADERS, HEALTH, INITIAL_WINDOW_SIZE, MAX_CONCURRENT_STREAMS,
                  MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE, NO_ERROR, PADDED, PING, PREFACE, PRIORITY, PROTOCOL_ERROR, PUSH_PROMISE,
                  REFUSED_STREAM, RST_STREAM, SERVING, SETTINGS, STREAM_CLOSED, WINDOW_UPDATE, WITH_PRIORITY, block, body, call, changed,
                  field, frame, headers, integer, reset, setting, settings, text, window_update)

MAX_FRAME = 256 << 10  # what kilnd announces
STREAMS = 100
CASES = []


# -- what must follow ---------------------------------------------------------------------------------

def ok(stream=1):
    """The call on that stream is answered, and so is the next."""
    def check(p):
        assert p.answered(stream), p.frames
        assert p.pings(), p.frames
    return check


def ignored(p):
    """Nothing came of it: the connection lives, no stream was reset, and a call is answered."""
    assert p.pings(), p.frames
    assert not p.seen(GOAWAY) and not p.seen(RST_STREAM), p.frames
    p.send(call(1001))
    assert p.answered(1001), p.frames


def connection(*codes):
    """GOAWAY with one of these codes, and the end."""
    def check(p):
        assert p.closed(), f"the connection is open; {p.frames}"
        assert p.code(GOAWAY) in codes, f"GOAWAY {p.code(GOAWAY)}, expected one of {codes}; {p.frames}"
    return check


def closed(p):
    """The connection ends; nothing needs to be said."""
    assert p.closed(), p.frames


def stream(*codes, id=1, alive=True):
    """RST_STREAM with one of these codes while the connection serves on; or an error of the connection with the same."""
    def check(p):
        p.until(lambda: p.seen(RST_STREAM, id) or p.seen(GOAWAY))
        if p.seen(GOAWAY):
            connection(*codes)(p)
            return
        assert p.code(RST_STREAM) in codes, f"RST_STREAM {p.code(RST_STREAM)}, expected one of {codes}; {p.frames}"
        p.send(call(1001))
        assert not alive or p.answered(1001), p.frames
    return check


def malformed(id=1):
    """RFC 9113, 8.1.1: a stream error PROTOCOL_ERROR. The call must not be answered as if it were well."""
    check = stream(PROTOCOL_ERROR, id=id)

    def both(p):
        check(p)
        assert p.data(id) == b"", p.frames
    return both


def refused(p):
    """Answered in HEADERS, by an error of HTTP or of gRPC, without a message."""
    p.until(lambda: p.finished(1))
    assert p.seen(HEADERS, 1, END_STREAM) and not p.data(1), p.frames
    assert p.pings(), p.frames


def either(*checks):
    """Where the RFCs, or their editions, leave a choice."""
    def check(p):
        for one in checks[:-1]:
            try:
                return one(p)
            except AssertionError:
                pass
        return checks[-1](p)
    return check


def last_stream(p):
    connection(PROTOCOL_ERROR)(p)
    assert int.from_bytes(p.seen(GOAWAY)[-1][3][:4], "big") == 3, p.frames


def acknowledged(p):
    assert p.until(lambda: len(p.seen(SETTINGS, flags=ACK)) == 2), p.frames


def in_single_bytes(p):
    assert p.until(lambda: p.seen(DATA, 1)) and p.pings()
    assert p.data(1) == SERVING[:1], p.frames
    p.send(window_update(1, 100))
    assert p.answered(1), p.frames


def after_settings(p):
    assert p.until(lambda: p.seen(HEADERS, 1)) and p.pings() and not p.data(1), p.frames
    p.send(settings((INITIAL_WINDOW_SIZE, 65535)))
    assert p.answered(1), p.frames


def after_negative(p):
    assert p.until(lambda: p.seen(DATA, 1)) and p.pings()
    assert len(p.data(1)) == 3, p.frames
    p.send(settings((INITIAL_WINDOW_SIZE, 2)), window_update(1, 2))
    assert p.until(lambda: len(p.data(1)) >= 4) and p.pings()
    assert len(p.data(1)) == 4, p.frames
    p.send(window_update(1, 100))
    assert p.answered(1), p.frames


def not_acknowledged(p):
    ignored(p)
    assert not [f for f in p.frames if f[0] == PING and f[3] == b"unwanted"], p.frames


def leaves_in_peace(p):
    assert p.answered(1) and p.closed() and p.code(GOAWAY) in (None, NO_ERROR), p.frames


def pinged(p):
    assert p.pings(b"\xff\0ab\n\r\x80z"), p.frames


class hello(list):
    """For rows that begin at the preface."""

    def __init__(self, *parts):
        super().__init__(parts)


def case(section, what, send, expect):
    CASES.append((section, what, send, expect))


# -- 3: starting ---------------------------------------------------------------------------------------

case("3.4", "the preface and empty SETTINGS", hello(PREFACE, settings(), call(1)), ok())
case("3.4", "the preface in three pieces", hello(PREFACE[:1], PREFACE[1:2], PREFACE[2:], settings(), call(1)), ok())
case("3.4", "a preface that is none", hello(b"INVALID CONNECTION PREFACE\r\n\r\n"), closed)
case("3.4", "a preface whose last byte is wrong", hello(PREFACE[:-1] + b"x", settings()), closed)
case("3.4", "an HTTP/1.1 request", hello(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), closed)
case("3.4", "PING before SETTINGS", hello(PREFACE, frame(PING, payload=bytes(8))), connection(PROTOCOL_ERROR))
case("3.4", "HEADERS before SETTINGS", hello(PREFACE, call(1)), connection(PROTOCOL_ERROR))
case("3.4", "SETTINGS with ACK as the first frame", hello(PREFACE, frame(SETTINGS, ACK)), connection(PROTOCOL_ERROR))
case("3.4", "requests before the server's SETTINGS were read", hello(PREFACE, settings(), call(1), call(3)), ok(3))

# -- 4: frames -----------------------------------------------------------------------------------------

case("4.1", "a frame of an unknown type", [frame(0x16, stream=0, payload=bytes(8))], ignored)
case("4.1", "a frame of an unknown type on a stream", [frame(0xff, 0xff, 3, bytes(8))], ignored)
case("4.1", "PING with flags that are not defined", [frame(PING, 0xfe, payload=b"abcdefgh")], ignored)
case("4.1", "the reserved bit of the stream identifier", [headers(1), frame(DATA, END_STREAM, 1 | 1 << 31, EMPTY_MESSAGE)], ok())
case("4.2", "DATA of 2^14 bytes", [headers(1), frame(DATA, 0, 1, b"\0\0\0\x3f\xfb" + bytes((1 << 14) - 5)), body(1, b"", END_STREAM)],
     refused)
case("4.2", "DATA over the announced frame size", [headers(1), frame(DATA, 0, 1, bytes(MAX_FRAME + 1))],
     stream(FRAME_SIZE_ERROR, alive=False))
case("4.2", "HEADERS over the announced frame size", [frame(HEADERS, END_HEADERS, 1, bytes(MAX_FRAME + 1))], connection(FRAME_SIZE_ERROR))
case("4.2", "CONTINUATION over the announced frame size",
     [frame(HEADERS, 0, 1, block(HEALTH)), frame(CONTINUATION, 0, 1, bytes(MAX_FRAME + 1))], connection(FRAME_SIZE_ERROR))
case("4.2", "SETTINGS over the announced frame size", [frame(SETTINGS, payload=bytes(6) * (MAX_FRAME // 6 + 1))],
     connection(FRAME_SIZE_ERROR))
case("4.2", "an unknown frame over the announced size", [frame(0x16, payload=bytes(MAX_FRAME + 1))], connection(FRAME_SIZE_ERROR))
case("4.2", "a length of 2^24 - 1", [frame(DATA, 0, 1, length=(1 << 24) - 1)], connection(FRAME_SIZE_ERROR, PROTOCOL_ERROR))
case("4.3", "a header block that cannot be decoded", [headers(1, raw=b"\x40\x0aab")], connection(COMPRESSION_ERROR))
case("4.3", "PRIORITY inside a header block", [frame(HEADERS, 0, 1, block(HEALTH)), frame(PRIORITY, 0, 1, bytes(5))], connection(PROTOCOL_ERROR))
case("4.3", "HEADERS of another stream inside a header block", [frame(HEADERS, 0, 1, block(HEALTH)), headers(3)], connection(PROTOCOL_ERROR))

# -- 5: streams ----------------------------------------------------------------------------------------


def closed_stream(p):
    """Stream 1 has been used and is closed on both sides."""
    p.send(call(1))
    assert p.answered(1), p.frames


def reset_stream(p):
    p.send(headers(1), reset(1))


def half_closed(p):
    """Stream 1: we have ended it, kilnd has not: Watch goes on."""
    p.send(headers(1, changed(path="/grpc.health.v1.Health/Watch")), body(1))
    assert p.until(lambda: p.data(1)), p.frames


case("5.1", "idle: DATA", [body(1)], connection(PROTOCOL_ERROR))
case("5.1", "idle: RST_STREAM", [reset(1)], connection(PROTOCOL_ERROR))
case("5.1", "idle: WINDOW_UPDATE", [window_update(1, 100)], connection(PROTOCOL_ERROR))
case("5.1", "idle: CONTINUATION", [frame(CONTINUATION, END_HEADERS, 1, block(HEALTH))], connection(PROTOCOL_ERROR))
case("5.1", "idle: PRIORITY is no error", [frame(PRIORITY, 0, 1, b"\0\0\0\0\x0f")], ignored)
case("5.1", "half closed: DATA", [half_closed, body(1)], stream(STREAM_CLOSED))
case("5.1", "half closed: HEADERS", [half_closed, headers(1, flags=END_HEADERS | END_STREAM)], stream(STREAM_CLOSED, PROTOCOL_ERROR))
case("5.1", "half closed: CONTINUATION", [half_closed, frame(CONTINUATION, END_HEADERS, 1, block(HEALTH))],
     connection(STREAM_CLOSED, PROTOCOL_ERROR))
case("5.1", "half closed: WINDOW_UPDATE is no error", [half_closed, window_update(1, 100)], ignored)
case("5.1", "half closed: PRIORITY is no error", [half_closed, frame(PRIORITY, 0, 1, b"\0\0\0\0\x0f")], ignored)
case("5.1", "half closed: RST_STREAM is no error", [half_closed, reset(1)], ignored)
# RFC 7540 wanted an error for frames on a closed stream, RFC 9113 leaves it to the server.
case("5.1", "reset by us: DATA", [reset_stream, body(1)], either(ignored, stream(STREAM_CLOSED)))
case("5.1", "reset by us: HEADERS", [reset_stream, headers(1)], either(ignored, stream(STREAM_CLOSED, PROTOCOL_ERROR)))
case("5.1", "reset by us: CONTINUATION", [reset_stream, frame(CONTINUATION, END_HEADERS, 1, block(HEALTH))],
     connection(STREAM_CLOSED, PROTOCOL_ERROR))
case("5.1", "closed: DATA", [closed_stream, body(1)], either(ignored, stream(STREAM_CLOSED)))
case("5.1", "closed: HEADERS", [closed_stream, headers(1, flags=END_HEADERS | END_STREAM)],
     either(ignored, stream(STREAM_CLOSED, PROTOCOL_ERROR)))
case("5.1", "closed: CONTINUATION", [closed_stream, frame(CONTINUATION, END_HEADERS, 1, block(HEALTH))],
     connection(STREAM_CLOSED, PROTOCOL_ERROR))
case("5.1", "closed: PRIORITY is no error", [closed_stream, frame(PRIORITY, 0, 1, b"\0\0\0\0\x0f")], ignored)
case("5.1", "closed: WINDOW_UPDATE right after is no error", [closed_stream, window_update(1, 100)], ignored)
case("5.1", "closed: RST_STREAM right after is no error", [closed_stream, reset(1)], ignored)
case("5.1.1", "an even stream identifier", [headers(2)], connection(PROTOCOL_ERROR))
case("5.1.1", "a stream identifier that goes backwards", [call(5), headers(3)], connection(PROTOCOL_ERROR, STREAM_CLOSED))
case("5.1.1", "a stream identifier that was passed over, after others", [call(1), call(7), call(9), headers(3)], connection(PROTOCOL_ERROR))
case("5.1.1", "the highest stream identifier", [call((1 << 31) - 1)], ok((1 << 31) - 1))
case("5.1.1", "gaps between stream identifiers", [call(1), call(9), call(77)], ok(77))
case("5.1.2", "more streams than announced", [headers(1 + 2 * i) for i in range(STREAMS + 1)],
     stream(REFUSED_STREAM, PROTOCOL_ERROR, id=2 * STREAMS + 1, alive=False))
case("5.1.2", "as many streams as announced", [*[headers(1 + 2 * i) for i in range(STREAMS)], *[body(1 + 2 * i) for i in range(STREAMS)]],
     ok(2 * STREAMS - 1))
case("5.3", "HEADERS with priority fields", [frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, b"\0\0\0\0\xff" + block(HEALTH)), body(1)], ok())
case("5.3", "HEADERS with exclusive priority", [frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, b"\x80\0\0\0\0" + block(HEALTH)), body(1)], ok())
case("5.3", "HEADERS that depends on itself: an error of RFC 7540, ignored by RFC 9113",
     [frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, b"\0\0\0\x01\xff" + block(HEALTH)), body(1)], either(ok(), connection(PROTOCOL_ERROR)))
case("5.3", "PRIORITY that depends on itself: the same", [frame(PRIORITY, 0, 1, b"\0\0\0\x01\xff"), call(1)], either(ok(), connection(PROTOCOL_ERROR)))
case("5.4.1", "an error of the connection is told by GOAWAY before the end", [frame(PING, stream=1, payload=bytes(8))], connection(PROTOCOL_ERROR))
case("5.4.1", "GOAWAY names the last stream that was taken", [call(1), call(3), frame(PING, stream=1, payload=bytes(8))], last_stream)
case("5.4.2", "an error of a stream leaves the others alone", [headers(1), headers(3, changed(("Upper", "x"))), body(1)], ok(1))
case("5.5", "an unknown frame inside a header block", [frame(HEADERS, 0, 1, block(HEALTH)), frame(0x16, 0, 1, bytes(8))], connection(PROTOCOL_ERROR))
case("5.5", "an unknown setting", [frame(SETTINGS, payload=setting(0xff, 1))], ignored)

# -- 6: each kind of frame ---------------------------------------------------------------------------------

case("6.1", "DATA in two frames", [headers(1), frame(DATA, 0, 1, EMPTY_MESSAGE[:2]), body(1, EMPTY_MESSAGE[2:])], ok())
case("6.1", "DATA in single bytes", [headers(1), *[frame(DATA, 0, 1, b"\0")] * 5, body(1, b"")], ok())
case("6.1", "DATA with padding", [headers(1), frame(DATA, PADDED | END_STREAM, 1, b"\7" + EMPTY_MESSAGE + bytes(7))], ok())
case("6.1", "DATA that is nothing but padding", [headers(1), frame(DATA, PADDED, 1, b"\x0a" + bytes(10)), body(1)], ok())
case("6.1", "DATA on stream 0", [headers(1), frame(DATA, END_STREAM, 0, EMPTY_MESSAGE)], connection(PROTOCOL_ERROR))
case("6.1", "DATA whose padding is as long as the frame", [headers(1), frame(DATA, PADDED, 1, b"\x06" + EMPTY_MESSAGE)], connection(PROTOCOL_ERROR))
case("6.1", "DATA with the padded flag and no bytes", [headers(1), frame(DATA, PADDED, 1, b"")], connection(PROTOCOL_ERROR, FRAME_SIZE_ERROR))
case("6.2", "HEADERS with padding", [frame(HEADERS, END_HEADERS | PADDED, 1, b"\3" + block(HEALTH) + bytes(3)), body(1)], ok())
case("6.2", "HEADERS with padding and priority",
     [frame(HEADERS, END_HEADERS | PADDED | WITH_PRIORITY, 1, b"\3\0\0\0\0\x10" + block(HEALTH) + bytes(3)), body(1)], ok())
case("6.2", "HEADERS on stream 0", [headers(0)], connection(PROTOCOL_ERROR))
case("6.2", "HEADERS with too long a padding", [frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff" + block(HEALTH)[:40])], connection(PROTOCOL_ERROR))
case("6.2", "HEADERS too short for its priority", [frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, b"\0\0\0")],
     connection(PROTOCOL_ERROR, FRAME_SIZE_ERROR))
case("6.2", "HEADERS, DATA and trailers", [headers(1), body(1, flags=0), headers(1, [("x-end", "1")], END_HEADERS | END_STREAM)], ok())
case("6.3", "PRIORITY on stream 0", [frame(PRIORITY, 0, 0, bytes(5))], connection(PROTOCOL_ERROR))
case("6.3", "PRIORITY of 4 bytes", [headers(1), frame(PRIORITY, 0, 1, bytes(4))], stream(FRAME_SIZE_ERROR))
case("6.3", "PRIORITY of 6 bytes", [headers(1), frame(PRIORITY, 0, 1, bytes(6))], stream(FRAME_SIZE_ERROR))
case("6.4", "RST_STREAM on stream 0", [reset(0)], connection(PROTOCOL_ERROR))
case("6.4", "RST_STREAM of 3 bytes", [headers(1), frame(RST_STREAM, 0, 1, bytes(3))], connection(FRAME_SIZE_ERROR))
case("6.4", "RST_STREAM of 5 bytes", [headers(1), frame(RST_STREAM, 0, 1, bytes(5))], connection(FRAME_SIZE_ERROR))
case("6.4", "RST_STREAM ends the call and nothing else", [headers(1), headers(3), reset(1), body(3)], ok(3))
case("6.5", "SETTINGS is acknowledged", [settings((INITIAL_WINDOW_SIZE, 100))], acknowledged)
case("6.5", "SETTINGS with ACK and a payload", [frame(SETTINGS, ACK, 0, setting(1, 1))], connection(FRAME_SIZE_ERROR))
case("6.5", "SETTINGS on a stream", [frame(SETTINGS, 0, 1, setting(1, 1))], connection(PROTOCOL_ERROR))
case("6.5", "SETTINGS of 5 bytes", [frame(SETTINGS, 0, 0, bytes(5))], connection(FRAME_SIZE_ERROR))
case("6.5", "SETTINGS of 7 bytes", [frame(SETTINGS, 0, 0, bytes(7))], connection(FRAME_SIZE_ERROR))
case("6.5.2", "ENABLE_PUSH = 2", [settings((ENABLE_PUSH, 2))], connection(PROTOCOL_ERROR))
case("6.5.2", "INITIAL_WINDOW_SIZE = 2^31", [settings((INITIAL_WINDOW_SIZE, 1 << 31))], connection(FLOW_CONTROL_ERROR))
case("6.5.2", "MAX_FRAME_SIZE below 2^14", [settings((MAX_FRAME_SIZE, (1 << 14) - 1))], connection(PROTOCOL_ERROR))
case("6.5.2", "MAX_FRAME_SIZE of 2^24", [settings((MAX_FRAME_SIZE, 1 << 24))], connection(PROTOCOL_ERROR))
case("6.5.2", "MAX_CONCURRENT_STREAMS = 0", [settings((MAX_CONCURRENT_STREAMS, 0)), call(1)], ok())
case("6.5.2", "MAX_HEADER_LIST_SIZE = 0", [settings((MAX_HEADER_LIST_SIZE, 0)), call(1)], ok())
case("6.5.2", "HEADER_TABLE_SIZE = 0 and 2^32 - 1", [settings((HEADER_TABLE_SIZE, 0), (HEADER_TABLE_SIZE, (1 << 32) - 1)), call(1), call(3)], ok(3))
case("6.5.3", "the last of several values counts", [settings((INITIAL_WINDOW_SIZE, 100), (INITIAL_WINDOW_SIZE, 1)), call(1)], in_single_bytes)
case("6.5.3", "SETTINGS with ACK that nobody waits for", [frame(SETTINGS, ACK)], either(connection(PROTOCOL_ERROR), ignored))
case("6.6", "PUSH_PROMISE from a client", [headers(1), frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + block(HEALTH))], connection(PROTOCOL_ERROR))
case("6.6", "PUSH_PROMISE on stream 0", [frame(PUSH_PROMISE, END_HEADERS, 0, b"\0\0\0\2" + block(HEALTH))], connection(PROTOCOL_ERROR))
case("6.7", "PING is answered with its bytes", [], pinged)
case("6.7", "PING with ACK is not answered", [frame(PING, ACK, 0, b"unwanted")], not_acknowledged)
case("6.7", "PING on a stream", [frame(PING, 0, 1, bytes(8))], connection(PROTOCOL_ERROR))
case("6.7", "PING of 6 bytes", [frame(PING, 0, 0, bytes(6))], connection(FRAME_SIZE_ERROR))
case("6.7", "PING of 9 bytes", [frame(PING, 0, 0, bytes(9))], connection(FRAME_SIZE_ERROR))
case("6.8", "GOAWAY on a stream", [frame(GOAWAY, 0, 1, bytes(8))], connection(PROTOCOL_ERROR))
case("6.8", "GOAWAY of 4 bytes", [frame(GOAWAY, 0, 0, bytes(4))], connection(FRAME_SIZE_ERROR))
case("6.8", "GOAWAY ends the connection when the calls have ended", [call(1), frame(GOAWAY, 0, 0, bytes(8))], leaves_in_peace)
case("6.9", "WINDOW_UPDATE of 0 on the connection", [window_update(0, 0)], connection(PROTOCOL_ERROR))
case("6.9", "WINDOW_UPDATE of 0 on a stream", [headers(1), window_update(1, 0)], stream(PROTOCOL_ERROR))
case("6.9", "WINDOW_UPDATE of 3 bytes", [frame(WINDOW_UPDATE, 0, 0, bytes(3))], connection(FRAME_SIZE_ERROR))
case("6.9", "WINDOW_UPDATE of 5 bytes", [headers(1), frame(WINDOW_UPDATE, 0, 1, bytes(5))], connection(FRAME_SIZE_ERROR))
case("6.9", "WINDOW_UPDATE's reserved bit", [window_update(0, 1 << 31 | 1)], ignored)
case("6.9.1", "a window of one byte is respected", [settings((INITIAL_WINDOW_SIZE, 1)), call(1)], in_single_bytes)
case("6.9.1", "the window of the connection over 2^31 - 1", [window_update(0, (1 << 31) - 1)], connection(FLOW_CONTROL_ERROR))
case("6.9.1", "the window of a stream over 2^31 - 1", [headers(1), window_update(1, (1 << 31) - 1)], stream(FLOW_CONTROL_ERROR))
case("6.9.2", "a window that is opened by SETTINGS after HEADERS", [settings((INITIAL_WINDOW_SIZE, 0)), call(1)], after_settings)
case("6.9.2", "a window that becomes negative", [settings((INITIAL_WINDOW_SIZE, 3)), call(1)], after_negative)
case("6.9.2", "SETTINGS that lifts the window of a stream over 2^31 - 1",
     [headers(1), window_update(1, (1 << 31) - 1 - 65535), settings((INITIAL_WINDOW_SIZE, 65536))], connection(FLOW_CONTROL_ERROR))
case("6.10", "a header block in three frames",
     [frame(HEADERS, 0, 1, block(HEALTH)[:20]), frame(CONTINUATION, 0, 1, block(HEALTH)[20:31]),
      frame(CONTINUATION, END_HEADERS, 1, block(HEALTH)[31:]), body(1)], ok())
case("6.10", "an empty CONTINUATION", [frame(HEADERS, 0, 1, block(HEALTH)), frame(CONTINUATION, END_HEADERS, 1), body(1)], ok())
case("6.10", "DATA inside a header block", [frame(HEADERS, 0, 1, block(HEALTH)), body(1)], connection(PROTOCOL_ERROR))
case("6.10", "SETTINGS inside a header block", [frame(HEADERS, 0, 1, block(HEALTH)), settings()], connection(PROTOCOL_ERROR))
case("6.10", "CONTINUATION of another stream", [frame(HEADERS, 0, 1, block(HEALTH)), frame(CONTINUATION, END_HEADERS, 3)], connection(PROTOCOL_ERROR))
case("6.10", "CONTINUATION on stream 0", [frame(HEADERS, 0, 1, block(HEALTH)), frame(CONTINUATION, END_HEADERS, 0)], connection(PROTOCOL_ERROR))
case("6.10", "CONTINUATION after END_HEADERS", [headers(1), frame(CONTINUATION, END_HEADERS, 1, field("a", "b"))], connection(PROTOCOL_ERROR))
case("6.10", "CONTINUATION after CONTINUATION with END_HEADERS",
     [frame(HEADERS, 0, 1, block(HEALTH)), frame(CONTINUATION, END_HEADERS, 1), frame(CONTINUATION, END_HEADERS, 1)], connection(PROTOCOL_ERROR))
case("6.10", "CONTINUATION after DATA", [headers(1), body(1, flags=0), frame(CONTINUATION, END_HEADERS, 1, field("a", "b"))],
     connection(PROTOCOL_ERROR))

# -- 7: error codes ------------------------------------------------------------------------------------

case("7", "RST_STREAM with an unknown code", [headers(1), reset(1, 0xff)], ignored)
case("7", "GOAWAY with an unknown code", [call(1), frame(GOAWAY, 0, 0, bytes(4) + b"\0\0\0\xff")], leaves_in_peace)

# -- 8: HTTP -------------------------------------------------------------------------------------------

case("8.1", "a second HEADERS without END_STREAM", [headers(1), headers(1, [("x", "y")])], malformed())
case("8.1", "HEADERS after the trailers", [half_closed, headers(1, [("x", "y")], END_HEADERS | END_STREAM)], stream(STREAM_CLOSED, PROTOCOL_ERROR))
case("8.1.1", "content-length and no body", [headers(1, changed(("content-length", "5")), END_HEADERS | END_STREAM)], malformed())
case("8.1.1", "content-length and a shorter body", [headers(1, changed(("content-length", "6"))), body(1)], malformed())
case("8.1.1", "content-length and a longer body", [headers(1, changed(("content-length", "4"))), body(1)], malformed())
case("8.1.1", "content-length and a longer body in two frames",
     [headers(1, changed(("content-length", "4"))), body(1, EMPTY_MESSAGE[:3], 0), body(1, EMPTY_MESSAGE[3:])], malformed())
case("8.1.1", "content-length that fits", [headers(1, changed(("content-length", "5"))), body(1)], ok())
case("8.1.1", "content-length twice", [headers(1, changed(("content-length", "5"), ("content-length", "5"))), body(1)], malformed())
case("8.1.1", "content-length that is no number", [headers(1, changed(("content-length", "+5"))), body(1)], malformed())
for bad in ("Upper", "sp ace", "a:b", "nul\0", "high\x80", "del\x7f", ""):
    case("8.2.1", f"a field named {bad!r}", [call(1, changed((bad, "x")))], malformed())
for bad in ("nul\0x", "line\nfeed", "carriage\rreturn"):
    case("8.2.1", f"a field whose value is {bad!r}", [call(1, changed(("x-test", bad)))], malformed())
for bad in (" leading", "trailing ", "\tleading"):
    case("8.2.1", f"a field whose value is {bad!r}", [call(1, changed(("x-test", bad)))], malformed())
case("8.2.1", "a field whose value is not ASCII", [call(1, changed(("x-test", "\xe4\xf6\xfc")))], ok())
for name, value in (("connection", "keep-alive"), ("proxy-connection", "keep-alive"), ("keep-alive", "300"), ("transfer-encoding", "chunked"),
                    ("upgrade", "h2c")):
    case("8.2.2", f"a field {name}", [call(1, changed((name, value)))], malformed())
case("8.2.2", "TE other than trailers", [call(1, changed(te="trailers, deflate"))], malformed())
case("8.3", "a pseudo-field after a field", [call(1, [HEALTH[0], HEALTH[4], *HEALTH[1:4], HEALTH[5]])], malformed())
case("8.3", "a pseudo-field in the trailers", [headers(1), headers(1, [(":path", "/x")], END_HEADERS | END_STREAM)], malformed())
case("8.3", "an unknown pseudo-field", [call(1, [*HEALTH[:4], (":test", "x"), *HEALTH[4:]])], malformed())
case("8.3", "a pseudo-field of responses", [call(1, [*HEALTH[:4], (":status", "200"), *HEALTH[4:]])], malformed())
for i, name in enumerate((":method", ":scheme", ":path")):
    case("8.3.1", f"no {name}", [call(1, HEALTH[:i] + HEALTH[i + 1:])], malformed())
    case("8.3.1", f"{name} twice", [call(1, HEALTH[:1] + HEALTH[i:i + 1] + HEALTH[1:] if i == 0 else HEALTH[:4] + HEALTH[i:i + 1] + HEALTH[4:])],
         malformed())
case("8.3.1", ":authority twice", [call(1, HEALTH[:4] + HEALTH[3:4] + HEALTH[4:])], malformed())
case("8.3.1", "no :authority", [call(1, changed(authority=None))], either(ok(), malformed()))
case("8.3.1", "an empty :path", [call(1, changed(path=""))], malformed())
case("8.3.1", "a :path without a slash", [call(1, changed(path="grpc.health.v1.Health/Check"))], malformed())
case("8.3.1", "a :path of an asterisk with POST", [call(1, changed(path="*"))], malformed())
case("8.3.1", "GET", [headers(1, changed(method="GET"), END_HEADERS | END_STREAM)], refused)
case("8.3.1", "HEAD", [headers(1, changed(method="HEAD"), END_HEADERS | END_STREAM)], refused)
case("8.3.1", "OPTIONS of an asterisk", [headers(1, changed(method="OPTIONS", path="*"), END_HEADERS | END_STREAM)], refused)
case("8.3.1", "POST of what is no gRPC", [call(1, changed(content_type="text/plain"))], refused)
case("8.4", "a client pushes", [half_closed, frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + block(HEALTH))], connection(PROTOCOL_ERROR))
case("8.5", "CONNECT without :authority", [headers(1, [(":method", "CONNECT")], END_HEADERS)], malformed())
case("8.5", "CONNECT with :scheme and :path", [headers(1, changed(method="CONNECT"))], malformed())
case("8.5", "CONNECT leads nowhere", [headers(1, [(":method", "CONNECT"), (":authority", "localhost:22")])], refused)

# -- HPACK ---------------------------------------------------------------------------------------------

GOOD = block(HEALTH)
# ":method: POST", ":scheme: http" by their places in the static table, the rest as literals
INDEXED = b"\x83\x86" + block(HEALTH[2:])


def raw(section, what, block_, expect):
    case("hpack " + section, what, [headers(1, raw=block_), body(1)], expect)


bad = connection(COMPRESSION_ERROR)
raw("2.3.3", "an index beyond both tables", GOOD + integer(1 << 20, 7, 0x80), bad)
raw("2.3.3", "a literal's name beyond both tables", GOOD + integer(1 << 20, 6, 0x40) + text("x"), bad)
raw("2.3.3", "the first place of an empty dynamic table", GOOD + integer(62, 7, 0x80), bad)
raw("4.2", "a change of the table's size behind the fields", GOOD + integer(100, 5, 0x20), bad)
raw("4.2", "a change of the table's size between fields", INDEXED[:2] + integer(100, 5, 0x20) + INDEXED[2:], bad)
raw("4.2", "two changes of the table's size in front", integer(0, 5, 0x20) + integer(4096, 5, 0x20) + GOOD, ok())
raw("5.1", "an integer that overflows", GOOD + b"\xff" + b"\xff" * 10 + b"\x7f", bad)
raw("5.1", "an integer that does not end", GOOD + b"\xff" + b"\x80" * 40, bad)
raw("5.1", "an integer that is cut", GOOD + b"\xff", bad)
raw("5.1", "an integer with zeros behind it", INDEXED[:2] + block(HEALTH[2:]) + b"\x00\x7f\x80\x80\x00" + b"n" * 127 + text("v"), ok())
raw("5.2", "a string that is cut", GOOD + b"\x00\x05abc", bad)
raw("5.2", "a string of 2^28 bytes that does not come", GOOD + b"\x00" + integer(1 << 28, 7) + b"abc", bad)
raw("5.2", "Huffman padding of more than 7 bits", GOOD + b"\x00\x82\x1f\xff" + text("x"), bad)
raw("5.2", "Huffman padding of zeros", GOOD + b"\x00\x81\x18" + text("x"), bad)
raw("5.2", "Huffman's end-of-string symbol", GOOD + b"\x00\x84\xff\xff\xff\xff" + text("x"), bad)
raw("5.2", "Huffman in name and value", INDEXED + b"\x00\x81\xf3\x81\xf3", ok())
raw("6.1", "index 0", GOOD + b"\x80", bad)
raw("6.1", "fields by their index", INDEXED, ok())
raw("6.2.1", "a literal that is indexed, then used", GOOD + field("x-test", "a", 0x40) + integer(62, 7, 0x80), ok())
raw("6.2.1", "a literal that is indexed, under an indexed name", b"\x83\x86" + b"\x44" + text(HEALTH[2][1]) + block(HEALTH[3:]), ok())
raw("6.2.2", "a literal that is not indexed, under an indexed name", b"\x83\x86" + b"\x04" + text(HEALTH[2][1]) + block(HEALTH[3:]), ok())
raw("6.2.3", "a literal that is never indexed", GOOD + field("x-test", "a", 0x10), ok())
raw("6.3", "a table larger than announced", integer(4097, 5, 0x20) + GOOD, bad)
raw("6.3", "a table of size 0, after which nothing is kept", integer(0, 5, 0x20) + GOOD + field("x-test", "a", 0x40) + integer(62, 7, 0x80), bad)
raw("4.4", "an entry larger than the table empties it", GOOD + field("a", "b", 0x40) + field("x-test", "v" * 5000, 0x40) + integer(62, 7, 0x80), bad)
case("hpack 2.2", "the table lasts over the calls of a connection",
     [headers(1, raw=GOOD + field("x-test", "a", 0x40)), body(1), headers(3, raw=GOOD + integer(62, 7, 0x80)), body(3)], ok(3))
case("hpack 2.2", "the table counts the fields of a call that was refused",
     [headers(1, raw=block(changed(method="GET")) + field("x-test", "a", 0x40), flags=END_HEADERS | END_STREAM),
      headers(3, raw=GOOD + integer(62, 7, 0x80)), body(3)], ok(3))
case("hpack 2.2", "the table counts the fields of a malformed call",
     [headers(1, raw=block(changed(("Upper", "x"))) + field("x-test", "a", 0x40)), headers(3, raw=GOOD + integer(62, 7, 0x80)), body(3)], ok(3))
