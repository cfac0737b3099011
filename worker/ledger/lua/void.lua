-- void(rid, why, keep_ms) -> 1 | 0 where there is nothing to give back
-- a:<scope> hash: held, or posted and unknown; r:<rid> hash, `keep_ms`; open zset; j stream
-- A call that had taken the place of a hold leaves it to that hold again.
local state, amt, names = standing(ARGV[1])
if not is_open(state) and state ~= 'expired' then return 0 end
give_back(ARGV[1], state, amt, names, ARGV[2], ARGV[3])
return 1
