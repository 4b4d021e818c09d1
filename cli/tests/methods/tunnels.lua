-- For tshark: which ports carry tunnels, and Generic UDP Encapsulation, which Wireshark 4.0 does not know
-- (draft-ietf-intarea-gue-09). Everything else, checksums above all, is left to Wireshark's own dissectors.

local packets = { [4] = Dissector.get("ip"), [41] = Dissector.get("ipv6") }
local versions = { [4] = packets[4], [6] = packets[41] }

local gue = Proto("gue", "Generic UDP Encapsulation")
local unknown = ProtoExpert.new("gue.unknown", "Not a data packet of GUE", expert.group.MALFORMED, expert.severity.ERROR)
gue.experts = { unknown }

function gue.dissector(bytes, info, tree)
    local first = bytes(0, 1):uint()
    local inner, header
    if bit32.rshift(first, 6) == 0 then
        -- version, control bit, length of what is optional; then the protocol inside
        header = 4 + 4 * bit32.band(first, 0x1f)
        inner = bit32.band(first, 0x20) == 0 and packets[bytes(1, 1):uint()]
    else
        -- version 1 is the packet itself
        header = 0
        inner = versions[bit32.rshift(first, 4)]
    end
    local item = tree:add(gue, bytes(0, header))
    if not inner then
        item:add_proto_expert_info(unknown)
        return
    end
    inner:call(bytes(header):tvb(), info, tree)
end

local ports = DissectorTable.get("udp.port")
ports:add(5555, packets[4])
ports:add(5556, packets[41])
ports:add(6080, gue)
