-- narrow(rid, amount, request_id) -> 1 | 0 where it is not open, or not lower
-- a:<scope> hash: held; r:<rid> hash: amount, request_id; j stream
-- The provider's id of the request is kept from here on: an outcome that stays unknown has it too.
local rid, lower = ARGV[1], amount(ARGV[2])
local state, amt, names = standing(rid)
if not is_open(state) then return 0 end
if ARGV[3] ~= '' then redis.call('HSET', reservation_key(rid), 'request_id', ARGV[3]) end
if lower >= amt then return 0 end
add(names, 'held', lower - amt)
redis.call('HSET', reservation_key(rid), 'amount', ARGV[2])
log('narrow', 'id', rid, 'amount', ARGV[2])
return 1
