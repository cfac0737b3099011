-- charge_unknown(rid, why, request_id, keep_ms) -> 1 | 0 where it has ended | -1 where there is none
-- a:<scope> hash: held, posted, unknown; r:<rid> hash, `keep_ms`; open zset; j stream
local state, amt, names = standing(ARGV[1])
if not state then return -1 end
if not is_open(state) then return 0 end
charge_bound(ARGV[1], state, amt, names, ARGV[2], ARGV[4])
if ARGV[3] ~= '' then redis.call('HSET', reservation_key(ARGV[1]), 'request_id', ARGV[3]) end
return 1
