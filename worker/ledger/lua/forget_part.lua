-- forget_part(last id) -> how many transitions went | -1 where the cut is another by now
-- j stream; meta hash: cut
-- Said once the part up to the cut is archived; said twice, by another worker, it does nothing more.
if redis.call('HGET', META, 'cut') ~= ARGV[1] then return -1 end
local ms, number = string.match(ARGV[1], '^(%d+)-(%d+)$')
local gone = redis.call('XTRIM', LOG, 'MINID', '=', ms .. '-' .. int(number + 1))
redis.call('HDEL', META, 'cut')
return gone
