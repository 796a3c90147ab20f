-- Ask detector before a request is answered. HAProxy needs, in `global`, `lua-load` of this file, `httpclient.retries 0`
-- and `httpclient.timeout.connect 40ms`, and in a frontend the lines of detector-decision.cfg. See docs/inline.md of
-- detector. The address is that of `listen` in [inline]: a chrooted HAProxy can't reach a socket outside.

local URL = "http://127.0.0.1:9466/"
-- Milliseconds for an answer; then the request goes on without one, and for so many seconds nobody asks.
local PATIENCE, PAUSE = 40, 10

local NAMES = { "decision", "confidence", "score", "ja4", "reasons", "id" }
local silent_until = 0

core.register_action("detector", { "http-req" }, function(txn)
	if core.now().sec < silent_until then return end
	local f = txn.f
	local function header(value) return { tostring(value or "") } end
	local answer = core.httpclient():get {
		url = URL,
		timeout = PATIENCE,
		headers = {
			["x-detector-client"] = header(f:src()),
			["x-detector-client-port"] = header(f:src_port()),
			["x-detector-server"] = header(f:dst()),
			["x-detector-server-port"] = header(f:dst_port()),
			["x-detector-protocol"] = header("HTTP/" .. (f:req_ver() or "")),
			["x-detector-host"] = header(f:req_hdr("host")),
			["x-detector-method"] = header(f:method()),
			["x-detector-uri"] = header(f:pathq()),
			["x-forwarded-for"] = header(f:req_fhdr("x-forwarded-for")),
			["user-agent"] = header(f:req_hdr("user-agent")),
		},
	}
	if not answer or (answer.status ~= 200 and answer.status ~= 401 and answer.status ~= 403) then
		silent_until = core.now().sec + PAUSE
		return
	end
	txn:set_var("txn.detector_status", answer.status)
	for _, name in ipairs(NAMES) do
		local value = answer.headers["x-detector-" .. name]
		if value then txn.http:req_set_header("x-detector-" .. name, value[0]) end
	end
end)
