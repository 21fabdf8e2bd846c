/* The servers on libuv: one thread, callbacks. `server SERVICE WORKERS`, of which there is always one; ends when
 * standard input does. */

#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#define BUFFER (64 << 10)
#define STRIDE 4096
#define BACKLOG 4096
#define RESPONSE "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!"
#define END "\r\n\r\n"

enum service { SERVE_ECHO, SERVE_SINK, SERVE_SOURCE, SERVE_HTTP, SERVE_UDP };
static const char *const names[] = {"echo", "sink", "source", "http", "udp"};
static enum service service;

struct connection {
    uv_tcp_t tcp;
    uv_write_t write;
    uint64_t count, hash; /* a sink's digest */
    uint64_t left;        /* what a source still has to send */
    size_t rest;          /* of an incomplete request, in front of the buffer */
    char *buffer;
};

static char chunk[BUFFER];
static char *responses;

static void closed(uv_handle_t *handle) {
    struct connection *connection = (struct connection *)handle;
    free(connection->buffer);
    free(connection);
}

static void end(struct connection *connection) {
    if (!uv_is_closing((uv_handle_t *)connection)) uv_close((uv_handle_t *)connection, closed);
}

static void allocate(uv_handle_t *handle, size_t size, uv_buf_t *buf) {
    struct connection *connection = (struct connection *)handle;
    (void)size;
    *buf = uv_buf_init(connection->buffer + connection->rest, BUFFER - connection->rest);
}

static void received(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf);
static void written(uv_write_t *request, int status);

/* Writes what the socket takes at once. Gives 1 if that was all; else `written` will be called, and nothing is read
 * until then, since the buffer is in use. */
static int put(struct connection *connection, const char *bytes, size_t size) {
    uv_stream_t *stream = (uv_stream_t *)connection;
    uv_buf_t buf = uv_buf_init((char *)bytes, size);
    int n = uv_try_write(stream, &buf, 1);
    if (n == (int)size) return 1;
    if (n > 0) buf = uv_buf_init((char *)bytes + n, size - n);
    uv_read_stop(stream);
    if ((n < 0 && n != UV_EAGAIN) || uv_write(&connection->write, stream, &buf, 1, written)) end(connection);
    return 0;
}

/* Sends the next chunk; `written` goes on, so that others have their turn. */
static void next_chunk(struct connection *connection) {
    uv_stream_t *stream = (uv_stream_t *)connection;
    while (connection->left == 0) {
        if (connection->rest < 8) {
            uv_read_start(stream, allocate, received);
            return;
        }
        memcpy(&connection->left, connection->buffer, 8);
        connection->rest -= 8;
        memmove(connection->buffer, connection->buffer + 8, connection->rest);
    }
    size_t n = connection->left < BUFFER ? connection->left : BUFFER;
    uv_buf_t buf = uv_buf_init(chunk, n);
    connection->left -= n;
    uv_read_stop(stream);
    if (uv_write(&connection->write, stream, &buf, 1, written)) end(connection);
}

static void written(uv_write_t *request, int status) {
    struct connection *connection = (struct connection *)request->handle;
    if (status < 0 || service == SERVE_SINK)
        end(connection);
    else if (service == SERVE_SOURCE)
        next_chunk(connection);
    else
        uv_read_start((uv_stream_t *)connection, allocate, received);
}

static void answer(struct connection *connection, size_t n) {
    char *at = connection->buffer, *stop = connection->buffer + connection->rest + n, *found;
    size_t count = 0;
    while ((found = memmem(at, stop - at, END, sizeof END - 1))) {
        at = found + sizeof END - 1;
        count++;
    }
    connection->rest = stop - at;
    memmove(connection->buffer, at, connection->rest);
    if (count) put(connection, responses, count * (sizeof RESPONSE - 1));
}

static void received(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
    struct connection *connection = (struct connection *)stream;
    if (n == 0) return;
    if (n == UV_EOF && service == SERVE_SINK) {
        memcpy(connection->buffer, &connection->count, 8);
        memcpy(connection->buffer + 8, &connection->hash, 8);
        if (put(connection, connection->buffer, 16)) end(connection);
        return;
    }
    if (n < 0) {
        end(connection);
        return;
    }
    switch (service) {
    case SERVE_ECHO:
        put(connection, buf->base, n);
        break;
    case SERVE_SINK:
        for (size_t at = -connection->count % STRIDE; at < (size_t)n; at += STRIDE)
            connection->hash = (connection->hash ^ (uint8_t)buf->base[at]) * 0x100000001B3;
        connection->count += n;
        break;
    case SERVE_SOURCE:
        connection->rest += n;
        next_chunk(connection);
        break;
    default:
        answer(connection, n);
    }
}

static void accepted(uv_stream_t *listener, int status) {
    if (status < 0) return;
    struct connection *connection = calloc(1, sizeof *connection);
    uv_tcp_init(listener->loop, &connection->tcp);
    connection->buffer = malloc(BUFFER);
    connection->hash = 0xCBF29CE484222325;
    if (uv_accept(listener, (uv_stream_t *)connection)
        || uv_read_start((uv_stream_t *)connection, allocate, received))
        end(connection);
}

static char datagram[BUFFER];

static void allocate_datagram(uv_handle_t *handle, size_t size, uv_buf_t *buf) {
    (void)handle, (void)size;
    *buf = uv_buf_init(datagram, BUFFER);
}

static void received_from(uv_udp_t *udp, ssize_t n, const uv_buf_t *buf, const struct sockaddr *from, unsigned flags) {
    (void)flags;
    if (n < 0 || !from) return;
    uv_buf_t reply = uv_buf_init(buf->base, n);
    uv_udp_try_send(udp, &reply, 1, from); /* datagrams may be lost */
}

static void check(int error) {
    if (error) {
        fprintf(stderr, "%s\n", uv_strerror(error));
        exit(1);
    }
}

static void announce(const struct sockaddr_in *addr) {
    printf("listening 127.0.0.1:%d\n", ntohs(addr->sin_port));
    fflush(stdout);
}

static void wait_for_end(void *unused) {
    char bytes[64];
    (void)unused;
    while (read(0, bytes, sizeof bytes) > 0) continue;
    _exit(0);
}

int main(int count, char **arguments) {
    for (service = 0; count > 1 && service <= SERVE_UDP && strcmp(arguments[1], names[service]); service++) continue;
    if (count != 3 || service > SERVE_UDP) {
        fprintf(stderr, "server SERVICE WORKERS\n");
        return 2;
    }
    for (uint64_t i = 0; i < BUFFER; i++) chunk[i] = i * 0x9E3779B97F4A7C15 >> 56;
    if (service == SERVE_HTTP) {
        size_t most = BUFFER / (sizeof END - 1);
        responses = malloc(most * (sizeof RESPONSE - 1));
        for (size_t i = 0; i < most; i++) memcpy(responses + i * (sizeof RESPONSE - 1), RESPONSE, sizeof RESPONSE - 1);
    }
    uv_thread_t thread;
    check(uv_thread_create(&thread, wait_for_end, NULL));
    uv_loop_t *loop = uv_default_loop();
    struct sockaddr_in addr;
    int size = sizeof addr;
    uv_tcp_t tcp;
    uv_udp_t udp;
    uv_ip4_addr("127.0.0.1", 0, &addr);
    if (service == SERVE_UDP) {
        check(uv_udp_init(loop, &udp));
        check(uv_udp_bind(&udp, (struct sockaddr *)&addr, 0));
        check(uv_udp_getsockname(&udp, (struct sockaddr *)&addr, &size));
        check(uv_udp_recv_start(&udp, allocate_datagram, received_from));
    } else {
        check(uv_tcp_init(loop, &tcp));
        check(uv_tcp_bind(&tcp, (struct sockaddr *)&addr, 0));
        check(uv_tcp_nodelay(&tcp, 1)); /* accepted sockets inherit it */
        check(uv_listen((uv_stream_t *)&tcp, BACKLOG, accepted));
        check(uv_tcp_getsockname(&tcp, (struct sockaddr *)&addr, &size));
    }
    announce(&addr);
    return uv_run(loop, UV_RUN_DEFAULT);
}
