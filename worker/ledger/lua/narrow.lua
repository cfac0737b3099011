-- narrow(rid, amount) -> 1 | 0 where it is not open, or not lower
-- a:<scope> hash: held; r:<rid> hash: amount; j stream
local rid, lower = ARGV[1], amount(ARGV[2])
local state, amt, names = standing(rid)
if not is_open(state) or lower >= amt then return 0 end
add(names, 'held', lower - amt)
redis.call('HSET', reservation_key(rid), 'amount', ARGV[2])
log('narrow', 'id', rid, 'amount', ARGV[2])
return 1
