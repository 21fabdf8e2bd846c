// The servers in Go: a goroutine for each connection, on so many cores as there are to be workers.
// `server SERVICE WORKERS`; ends when standard input does.
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
)

const (
	buffer   = 64 << 10
	stride   = 4096
	response = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!"
)

var end = []byte("\r\n\r\n")

func main() {
	if len(os.Args) != 3 {
		fail("server SERVICE WORKERS")
	}
	workers, err := strconv.Atoi(os.Args[2])
	if err != nil {
		fail(err)
	}
	runtime.GOMAXPROCS(workers)
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	service, known := map[string]func(net.Conn){"echo": echo, "sink": sink, "source": source, "http": http}[os.Args[1]]
	switch {
	case known:
		listener, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			fail(err)
		}
		fmt.Println("listening", listener.Addr())
		for {
			conn, err := listener.Accept()
			if err == nil {
				go func() {
					defer conn.Close()
					service(conn)
				}()
			}
		}
	case os.Args[1] == "udp":
		udp()
	default:
		fail("no service is called " + os.Args[1])
	}
}

func fail(why any) {
	fmt.Fprintln(os.Stderr, why)
	os.Exit(1)
}

func echo(conn net.Conn) {
	buf := make([]byte, buffer)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		if _, err := conn.Write(buf[:n]); err != nil {
			return
		}
	}
}

func sink(conn net.Conn) {
	buf := make([]byte, buffer)
	count, hash := uint64(0), uint64(0xCBF29CE484222325)
	for {
		n, err := conn.Read(buf)
		if err == io.EOF {
			break
		}
		if err != nil {
			return
		}
		for at := (stride - count%stride) % stride; at < uint64(n); at += stride {
			hash = (hash ^ uint64(buf[at])) * 0x100000001B3
		}
		count += uint64(n)
	}
	var digest [16]byte
	binary.LittleEndian.PutUint64(digest[:], count)
	binary.LittleEndian.PutUint64(digest[8:], hash)
	conn.Write(digest[:])
}

var chunk = func() []byte {
	chunk := make([]byte, buffer)
	for i := range chunk {
		chunk[i] = byte(uint64(i) * 0x9E3779B97F4A7C15 >> 56)
	}
	return chunk
}()

func source(conn net.Conn) {
	var request [8]byte
	for {
		if _, err := io.ReadFull(conn, request[:]); err != nil {
			return
		}
		left := binary.LittleEndian.Uint64(request[:])
		for left > 0 {
			n := left
			if n > buffer {
				n = buffer
			}
			if _, err := conn.Write(chunk[:n]); err != nil {
				return
			}
			left -= n
		}
	}
}

// As many as fit into a buffer.
var responses = bytes.Repeat([]byte(response), buffer/len(end))

func http(conn net.Conn) {
	buf := make([]byte, buffer)
	rest := 0
	for rest < len(buf) {
		n, err := conn.Read(buf[rest:])
		if err != nil {
			return
		}
		data, count := buf[:rest+n], 0
		for {
			at := bytes.Index(data, end)
			if at < 0 {
				break
			}
			count++
			data = data[at+len(end):]
		}
		rest = copy(buf, data)
		if count > 0 {
			if _, err := conn.Write(responses[:count*len(response)]); err != nil {
				return
			}
		}
	}
}

func udp() {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		fail(err)
	}
	fmt.Println("listening", conn.LocalAddr())
	buf := make([]byte, buffer)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			fail(err)
		}
		// Datagrams may be lost.
		conn.WriteToUDPAddrPort(buf[:n], from)
	}
}
