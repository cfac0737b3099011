-- advance_mark(epoch, number, nonce) -> 1 | 0 where another epoch or number stands there, or a doubt
-- meta hash: mark, nonce, before, mark_ms. `number` is the one that is left behind.
local m = redis.call('HMGET', META, 'epoch', 'mark', 'doubt', 'nonce')
if m[1] ~= ARGV[1] or (m[2] or '0') ~= ARGV[2] or m[3] then return 0 end
redis.call('HSET', META, 'mark', int(ARGV[2] + 1), 'nonce', ARGV[3], 'before', m[4] or '', 'mark_ms', int(now_ms()))
return 1
