// For header-names.conf. rawHeadersIn has [name, value] for each header, as the client sent them.
function list(request) {
    return request.rawHeadersIn.map((header) => header[0]).join(",");
}

export default { list };
