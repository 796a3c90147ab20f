-- Ask detector before a request is answered. HAProxy needs `lua-load` of this file in `global`, and in a frontend the
-- lines of detector-decision.cfg. See docs/inline.md of detector. The address is that of `listen` in [inline]: a
-- chrooted HAProxy, as Debian's is, can't reach a socket outside.

local HOST, PORT = "127.0.0.1", 9466
-- Seconds for an answer; then the request goes on without one, and for so many seconds nobody asks.
local PATIENCE, PAUSE = 0.04, 10

local NAMES = { "decision", "confidence", "score", "ja4", "reasons", "id" }
-- What is told of the request as its client sent it.
local TOLD = {
	"x-forwarded-for", "referer", "accept", "accept-language", "accept-encoding", "sec-ch-ua", "sec-ch-ua-mobile",
	"sec-ch-ua-platform", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest", "sec-fetch-user",
}
local silent_until = 0

-- The status, and the lines of the head.
local function ask(question)
	local socket = core.tcp()
	socket:settimeout(PATIENCE)
	local answer
	if socket:connect(HOST, PORT) and socket:send(question) then
		answer = socket:receive("*a")
	end
	socket:close()
	local status = answer and answer:match("^HTTP/1%.%d (%d%d%d)")
	return tonumber(status), answer
end

core.register_action("detector", { "http-req" }, function(txn)
	if core.now().sec < silent_until then return end
	local f = txn.f
	local lines = { "GET / HTTP/1.0" }
	local function tell(name, value)
		-- One line each, whatever the client sent.
		if value then lines[#lines + 1] = name .. ": " .. tostring(value):gsub("%c", " ") end
	end
	tell("x-detector-client", f:src())
	tell("x-detector-client-port", f:src_port())
	tell("x-detector-server", f:dst())
	tell("x-detector-server-port", f:dst_port())
	tell("x-detector-protocol", "HTTP/" .. (f:req_ver() or ""))
	tell("x-detector-host", f:req_hdr("host"))
	tell("x-detector-method", f:method())
	tell("x-detector-uri", f:pathq())
	-- The site's own session, if detector.cfg sets it before.
	tell("x-detector-session", txn:get_var("txn.d_sid"))
	tell("x-detector-header-names", f:req_hdr_names())
	for _, name in ipairs(TOLD) do tell(name, f:req_fhdr(name)) end
	tell("user-agent", f:req_hdr("user-agent"))
	local status, answer = ask(table.concat(lines, "\r\n") .. "\r\n\r\n")
	if status ~= 200 and status ~= 401 and status ~= 403 then
		silent_until = core.now().sec + PAUSE
		return
	end
	txn:set_var("txn.detector_status", status)
	for _, name in ipairs(NAMES) do
		local value = answer:match("\r\nx%-detector%-" .. name .. ": ([^\r]*)")
		if value then txn.http:req_set_header("x-detector-" .. name, value) end
	end
end)
