#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""An HTTP server that says who it is and whom it sees: serve.py NAME PORT [CERTIFICATE KEY]"""
import socket
import socketserver
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6  # "::" serves both families

    def server_bind(self):  # HTTPServer's own asks for this host's name, and here nobody may answer
        socketserver.TCPServer.server_bind(self)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        client = self.client_address[0].removeprefix("::ffff:")
        body = f"hello from {sys.argv[1]}, you are {client}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *ignored):
        pass


server = Server(("::", int(sys.argv[2])), Handler)
if len(sys.argv) > 3:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[3], sys.argv[4])
    server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
